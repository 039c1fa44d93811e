"""Which files a source means, in every arrangement of folders, lists and links."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from infra.errors import InvalidInput
from selection.ingest.sources import Reject, SourceFile, Sources


def _dataset(folder: Path, names: list[str], *, listed: list[str] | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    if listed is not None:
        lines = [json.dumps({"file": name, "drive": "d"}) for name in listed]
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _walk(*given: Path | str, metadata_file: Path | None = None) -> tuple[list[str], list[str], int]:
    sources = Sources([str(one) for one in given], metadata_file=metadata_file)
    items = list(sources)
    assert items == list(sources), "the walk can be repeated"
    files = [item.name + ("+" if item.said.drive else "") for item in items if isinstance(item, SourceFile)]
    return files, [item.reason for item in items if isinstance(item, Reject)], sources.ignored


def test_a_dataset_gives_what_its_list_names_and_ignores_the_rest(tmp_path: Path) -> None:
    _dataset(
        tmp_path, ["images/b.jpg", "images/a.jpg", "masks/a.png", "notes.txt"], listed=["images/b.jpg", "images/a.jpg"]
    )
    assert _walk(tmp_path) == (["images/b.jpg+", "images/a.jpg+"], [], 2)


def test_a_folder_of_images_inside_a_dataset_uses_the_list_above(tmp_path: Path) -> None:
    _dataset(
        tmp_path, ["images/a.jpg", "images/x.jpg", "other/b.jpg", "masks/a.png"], listed=["images/a.jpg", "other/b.jpg"]
    )
    assert _walk(tmp_path / "images") == (["images/a.jpg+"], [], 1)
    assert _walk(tmp_path / "masks") == ([], [], 1)


def test_a_folder_without_a_list_gives_every_visible_file(tmp_path: Path) -> None:
    _dataset(tmp_path, ["b/2.jpg", "a.txt", "b/1.jpg", ".hidden.jpg", ".git/x.jpg"])
    assert _walk(tmp_path) == (["a.txt", "b/1.jpg", "b/2.jpg"], [], 0)


def test_datasets_below_a_folder_are_each_read_by_their_list(tmp_path: Path) -> None:
    _dataset(tmp_path / "one", ["images/a.jpg", "masks/a.png"], listed=["images/a.jpg"])
    _dataset(tmp_path / "two", ["b.jpg"])
    assert _walk(tmp_path) == (["images/a.jpg+", "two/b.jpg"], [], 1)


def test_single_images_and_globs(tmp_path: Path) -> None:
    _dataset(tmp_path, ["images/a.jpg", "images/b.jpg", "masks/a.png"], listed=["images/a.jpg"])
    images = tmp_path / "images"
    assert _walk(images / "a.jpg") == (["images/a.jpg+"], [], 0)
    assert _walk(images / "b.jpg") == (["b.jpg"], [], 0), "named by itself, so it is meant"
    assert _walk(images / "*.jpg") == (["images/a.jpg+"], [], 1), "met by a glob, so the list decides"
    assert _walk(f"{tmp_path}/**/*.jpg") == (["images/a.jpg+"], [], 1)
    assert _walk(f"{tmp_path}/*") == (["images/a.jpg+"], [], 2), "masks are not frames"
    assert _walk(tmp_path / "metadata.jsonl") == (["images/a.jpg+"], [], 2), "the list stands for the dataset"


def test_a_list_kept_elsewhere(tmp_path: Path) -> None:
    data = _dataset(tmp_path / "data", ["images/a.jpg", "images/b.jpg"])
    listing = tmp_path / "lists" / "m.jsonl"
    listing.parent.mkdir()
    for name in ("images/a.jpg", "a.jpg", str(data / "images/a.jpg"), "../data/images/a.jpg"):
        listing.write_text(json.dumps({"file": name, "drive": "d"}))
        assert _walk(data / "images", metadata_file=listing) == ([f"{name}+"], [], 1)


def test_bad_lines_and_missing_files_are_rejects_and_the_rest_goes_on(tmp_path: Path) -> None:
    _dataset(tmp_path, ["a.jpg", "b.jpg"], listed=["a.jpg", "gone.jpg", "../../etc/passwd", "b.jpg"])
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write('\n{"file": \n')
    files, reasons, ignored = _walk(tmp_path)
    assert (files, ignored) == (["a.jpg+", "b.jpg+"], 0)
    assert len(reasons) == 3
    assert "not there" in reasons[0]
    assert "line 2" in reasons[0]
    assert "points outside" in reasons[1]
    assert "bad metadata line 6: not JSON" in reasons[2]


def test_link_loops_end_and_special_files_are_not_opened(tmp_path: Path) -> None:
    _dataset(tmp_path, ["sub/a.jpg"])
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "sub" / "self").symlink_to(tmp_path / "sub" / "self")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    files, reasons, _ = _walk(tmp_path)
    assert files == ["sub/a.jpg"]
    assert sorted(reasons)[1:] == ["not a file", "the link leads nowhere"]
    assert "symbolic links" in sorted(reasons, key=len)[-1]


def test_a_link_loop_in_a_dataset_ends_too(tmp_path: Path) -> None:
    _dataset(tmp_path, ["a.jpg"], listed=["a.jpg"])
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert _walk(tmp_path) == (["a.jpg+"], [], 0)


def test_odd_names(tmp_path: Path) -> None:
    _dataset(tmp_path, ["[1]*.jpg", "ü b.jpg"])
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    assert _walk(tmp_path / "[1]*.jpg")[0] == ["[1]*.jpg"]
    assert sorted(_walk(tmp_path)[0]) == ["?.jpg", "[1]*.jpg", "ü b.jpg"]


@pytest.mark.parametrize("given", ["nowhere", "nowhere/*.jpg", "a\0b", ""])
def test_a_missing_source_is_named(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere|NUL|not exist"):
        Sources([str(tmp_path / given) if given else "nowhere-at-all"])


def test_nothing_or_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing to ingest"):
        Sources([])
    with pytest.raises(InvalidInput, match=r"m\.jsonl does not exist"):
        Sources([str(tmp_path)], metadata_file=tmp_path / "m.jsonl")


def test_a_file_without_line_ends_is_not_swallowed_whole(tmp_path: Path) -> None:
    _dataset(tmp_path, ["a.jpg"])
    (tmp_path / "metadata.jsonl").write_bytes(b"[" * (17 << 20))
    with pytest.raises(InvalidInput, match="JSON Lines"):
        list(Sources([str(tmp_path)]))


def test_links_lead_anywhere_but_to_what_holds_the_folder_given(tmp_path: Path) -> None:
    given = _dataset(tmp_path / "all" / "given", ["sub/a.jpg"])
    _dataset(tmp_path / "all", ["private.jpg"])
    _dataset(tmp_path / "disk2", ["b.jpg"])
    (given / "sub" / "up").symlink_to(tmp_path / "all", target_is_directory=True)
    (given / "top").symlink_to("/", target_is_directory=True)
    (given / "disk2").symlink_to(tmp_path / "disk2", target_is_directory=True)
    (given / "twice").symlink_to(tmp_path / "disk2", target_is_directory=True)
    assert _walk(given) == (["disk2/b.jpg", "sub/a.jpg"], [], 0)


def test_a_list_that_cannot_be_read_does_not_end_the_other_folders(tmp_path: Path) -> None:
    _dataset(tmp_path / "a", ["1.jpg"], listed=["1.jpg"])
    _dataset(tmp_path / "b", ["2.jpg"], listed=["2.jpg"])
    _dataset(tmp_path / "c", ["3.jpg"], listed=["3.jpg"])
    (tmp_path / "b" / "metadata.jsonl").write_bytes(b"[" * (17 << 20))
    for given in ((tmp_path,), (tmp_path / "a", tmp_path / "b", tmp_path / "c"), (f"{tmp_path}/*/*.jpg",)):
        files, reasons, _ = _walk(*given)
        assert files == ["1.jpg+", "3.jpg+"]
        assert "JSON Lines" in reasons[0]


def test_links_to_images_keep_their_own_names_and_lists(tmp_path: Path) -> None:
    blobs = _dataset(tmp_path / "blobs", ["5f1a", "77ab"])
    given = tmp_path / "given"
    given.mkdir()
    listing = tmp_path / "blobs" / "list"
    listing.write_text('{"file": "a.jpg", "drive": "d"}\n')
    (given / "metadata.jsonl").symlink_to(listing)
    (given / "a.jpg").symlink_to(blobs / "5f1a")
    (given / "b.jpg").symlink_to(blobs / "77ab")
    assert _walk(given)[0] == ["a.jpg+"]
    assert _walk(f"{given}/*.jpg") == (["a.jpg+"], [], 1)
    assert _walk(given / "a.jpg", given / "b.jpg")[0] == ["a.jpg+", "b.jpg"]
    assert _walk(given / "metadata.jsonl")[0] == ["a.jpg+"]
    assert _walk(given, metadata_file=given / "metadata.jsonl")[0] == ["a.jpg+"]
    (given / "metadata.jsonl").unlink()
    assert _walk(f"{given}/*.jpg")[0] == ["a.jpg", "b.jpg"]
    (tmp_path / "link").symlink_to(given, target_is_directory=True)
    assert _walk(tmp_path / "link" / "a.jpg", given / "a.jpg")[0] == ["a.jpg"], "one file by two names of its folder"
