from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.platform import Platform
from service.cli import data

HEAVY = ("torch", "faiss", "open_clip", "torchvision", "pyarrow", "sklearn", "boto3", "pymongo", "fastapi")


def mlpl(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MLPL_")}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, service.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_task_is_created_listed_and_its_mistakes_are_one_line(platform: Platform) -> None:
    environment = platform.settings.as_environment()
    made = mlpl(
        "task", "create", "hour", "--kind", "classification", "--classes", "day, night", environment=environment
    )
    assert made.returncode == 0, made.stderr
    listed = json.loads(mlpl("task", "list", "--json", environment=environment).stdout)
    assert [(task["task_id"], task["kind"], task["classes"]) for task in listed] == [
        ("hour", "classification", ["day", "night"])
    ]
    refused = mlpl("task", "create", "boxes", "--kind", "guessing", "--classes", "car", environment=environment)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "'guessing' is unknown" in refused.stderr


def test_commands_that_need_no_model_import_none(platform: Platform) -> None:
    code = (
        "import sys\nfrom service.cli.main import app\n"
        "app(['status', '--json'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'faiss', 'open_clip') if m in sys.modules], file=sys.stderr)"
    )
    environment = os.environ | platform.settings.as_environment()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 0
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such-command"], 2, "No such command"),
        (["ingest", "/no/such/folder"], 1, "/no/such/folder"),
        (["trace", "nothing-of-the-kind"], 1, "nothing has the id"),
        (["batch", "push", "nothing"], 1, "does not exist"),
        (["serve", "--host", "0.0.0.0"], 1, "MLPL_ACCESS_TOKEN"),
        (["search", "--like", "abcdef"], 1, "abcdef does not exist"),
        (["search", "wet road weather:"], 1, "query, character 18: a value is missing"),
        (["search", "--json", "-weather:", "--limit", "3"], 1, "query, character 10: a value is missing"),
        (["withdraw", "abcdef"], 1, "abcdef does not exist"),
        (["demo", "--no-serve", "--frames", "/no/such/folder"], 1, "--frames /no/such/folder is not a folder"),
        (
            ["simulate", "--out", "/dev/null/out", "--frames", "/no/such/folder"],
            1,
            "--frames /no/such/folder is not a folder",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(platform: Platform, arguments: list[str], status: int, words: str) -> None:
    done = mlpl(*arguments, environment=platform.settings.as_environment())
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = mlpl("status", environment={"MLPL_HOME": str(tmp_path), "MLPL_PORT": "many"})
    assert done.returncode == 1
    assert "MLPL_PORT" in done.stderr


def test_an_interrupted_command_says_that_it_can_be_repeated(platform: Platform) -> None:
    code = (
        "import service.overview, service.cli.main as cli\n"
        "def stop(_): raise KeyboardInterrupt\n"
        "service.overview.overview = stop\n"
        "import sys; sys.argv = ['mlpl', 'status']\n"
        "cli.main()"
    )
    environment = os.environ | platform.settings.as_environment()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "interrupted; what was finished is kept, run the command again to go on\n"


def test_a_file_that_is_no_image_is_named(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    refused = mlpl("search", "--image", str(tmp_path / "notes.jpg"), environment=platform.settings.as_environment())
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"mlpl: {tmp_path / 'notes.jpg'}: not an image")
    assert refused.stderr.count("\n") == 1


def test_ingest_takes_several_sites_with_their_tracks_and_tells_of_both(platform: Platform, tmp_path: Path) -> None:
    from PIL import Image

    for level, site in enumerate(("a", "b")):
        (tmp_path / site).mkdir()
        Image.new("RGB", (16, 8), (level, 0, 0)).save(tmp_path / site / "0.png")
        line = {"file": "0.png", "captured_at": "2026-03-01T07:30:00Z", "drive": site}
        gone = {"file": "gone.png"}
        (tmp_path / site / "metadata.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(gone)}\n")
    (tmp_path / "t.csv").write_text("time,lat,lon,speed,drive\n2026-03-01T07:30:00Z,35,137,10,a\n")
    given = [f"a={tmp_path}/a", f"b={tmp_path}/b", "--track", f"{tmp_path}/t.csv", "--speed-unit", "kph"]
    environment = platform.settings.as_environment()
    told = json.loads(mlpl("ingest", *given, "--json", environment=environment).stdout)
    assert (told["added"], told["missing"], told["broken"]) == (2, 2, 0)
    assert (told["tracks"]["joined"], told["tracks"]["without_track"]) == (1, 1)
    assert {one["kind"] for one in told["examples"]["missing"]} == {"missing"}
    told = mlpl("ingest", *given, environment=environment).stdout
    assert told.startswith("0 added, 2 already present, 2 missing, 0 broken")
    found = {one["site"]: one["attributes"] for one in platform.database.frames.find()}
    assert found["a"]["speed_kph"] == 10.0
    assert found["b"] == {}
    told = mlpl("rejects", "--limit", "1", environment=environment).stdout
    assert told.splitlines()[-1] == "... and 1 more; --limit shows them"
    assert len(told.splitlines()) == 3
    assert "more;" not in mlpl("rejects", environment=environment).stdout


def test_hits_are_told_in_short_attributes() -> None:
    hit = {"rank": 1, "frame_id": "f", "score": 0.5, "sort_value": 0.25, "site": "s", "drive": "d"}
    hit["why"] = {"nearest": "text:rain"}
    hit["attributes"] = {"license": "x" * 80, "weather": "rain", "boxes": [1], "lane": 2}
    text = data._hits_text([hit], total=1, sort=None, group=None)
    assert "weather:rain lane:2" in text
    assert "license" not in text
    assert "boxes" not in text
    assert "0.5" in text
    assert "margin" in (sorted_by := data._hits_text([hit], total=1, sort="-margin", group=None))
    assert "0.25" in sorted_by
    assert "text:rain" not in text  # All hits are like the one thing asked for.
    other = {**hit, "rank": 2, "why": {"nearest": "frame:0123"}}
    assert "frame:0123" in data._hits_text([hit, other], total=2, sort=None, group=None)


def test_nothing_is_chosen_while_there_is_nowhere_to_push_to(platform: Platform) -> None:
    environment = platform.settings.as_environment()
    mlpl("task", "create", "hour", "--kind", "classification", "--classes", "day,night", environment=environment)
    nobody = {"MLPL_LABEL_STUDIO_URL": "http://127.0.0.1:9", "MLPL_LABEL_STUDIO_TOKEN": "x"}
    refused = mlpl("batch", "create", "--task", "hour", "--push", environment=environment | nobody)
    assert refused.returncode == 1
    assert "cannot be reached" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert json.loads(mlpl("batch", "status", "--json", environment=environment).stdout) == []
