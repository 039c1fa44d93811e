"""Videos as sources: one frame every so often, each a JPEG with the time at which the video shows it.

The same video gives the same bytes again: decoding is exact whatever the number of threads, and colours are converted by arithmetic that does
not depend on the processor. So a frame that is in the fleet already is known by its content, like any other.
"""

from __future__ import annotations

import hashlib
import io
import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from infra.errors import Denied, InvalidInput, NotFound
from infra.lake import Lake
from selection.fleet import frames, metadata
from selection.ingest import rejects
from selection.ingest.rejects import Reject
from selection.ingest.sources.files import SourceFile, is_text
from selection.ingest.sources.meter import Meter
from selection.ingest.throttle import Throttle

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".ts")
JPEG_QUALITY = 95

LARGEST_REMOTE_BYTES = 1024 * 1024 * 1024

_JUMP_S = 1
_SHORT_BY, _SHORT_BY_S = 0.02, 1.5  # Sound may be longer than the pictures; key frames may end before them.


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How frames are taken from videos.

    Attributes:
        fps: Frames a second; where the video has fewer, all of them.
        keyframes: Only frames that were coded by themselves, which is many times faster; at most `fps` of them a second.
        start: When the video begins (UTC), for those whose metadata does not say.
    """

    fps: float = 1.0
    keyframes: bool = False
    start: datetime | None = None

    def __post_init__(self) -> None:
        """Checks the rate.

        Raises:
            InvalidInput: It is not above 0.
        """
        if not 0 < self.fps <= 1000:
            raise InvalidInput(f"--fps {self.fps} must be above 0 and at most 1000")


@dataclass(kw_only=True)
class _Told:
    """What a video has shown so far."""

    announced_s: float | None = None
    reached_s: float = 0.0
    given: int = 0
    damaged: int = 0
    first_damage_s: float | None = None
    problem: str | None = None

    zero: Fraction | None = None

    def since_start(self, moment: Fraction) -> Fraction:
        """Seconds since the video's beginning, of a moment on its own clock."""
        self.zero = moment if self.zero is None else self.zero
        at = max(moment - self.zero, Fraction(0))
        self.reached_s = max(self.reached_s, float(at))
        return at

    def damage(self) -> None:
        """Counts what could not be decoded."""
        self.damaged += 1
        if self.first_damage_s is None:
            self.first_damage_s = self.reached_s

    def verdict(self) -> str | None:
        """What is wrong with the video; None if nothing is."""
        kept = f"{self.given} frames were kept" if self.given else "it gave no frame"
        if self.problem is not None:
            return f"damaged after {self.reached_s:.1f} s ({self.problem}); {kept}"
        if self.announced_s and self.reached_s < self.announced_s - max(_SHORT_BY_S, _SHORT_BY * self.announced_s):
            return f"cut short: it ends after {self.reached_s:.1f} of {self.announced_s:.1f} s; {kept}"
        if self.damaged:
            since = self.first_damage_s or 0.0
            return f"damaged pictures were left out: {self.damaged}, the first after {since:.1f} s; {self.given} frames were kept"
        return None if self.given else "the video has no picture"


def is_video(name: str) -> bool:
    """Whether a file is one by its name."""
    return name.lower().endswith(SUFFIXES)


def is_note(file: SourceFile) -> bool:
    """Whether a file that was met has the name of a video, but is evidently a text; of one in a bucket nobody asks."""
    if not file.may_be_note or _is_remote(file):
        return False
    try:
        with io.BytesIO(file.data) if file.data is not None else Path(file.path).open("rb") as opened:
            return is_text(opened.read(4096))
    except OSError:
        return False  # Whoever reads it says why not.


def read(
    video: SourceFile, lake: Lake, options: VideoOptions, *, meter: Meter, throttle: Throttle
) -> Iterator[SourceFile | Reject]:
    """The frames of a video in their order; at the end a reject, if it is damaged or cut short: the frames up to there are kept.

    A video is a drive by default, named after its place below the folder that was given, or after its own folder and file. What the metadata
    says of it holds for all its frames; `captured_at` is when it begins.
    """
    import av
    from av.error import FFmpegError

    shown, told = video.shown, _Told()
    try:
        with _open(video, lake, throttle) as file:
            _check_bytes(file, video)
            with av.open(file, mode="r", metadata_errors="ignore") as container:
                yield from _frames(container, video, options, told=told, meter=meter, throttle=throttle)
    except FileNotFoundError:
        yield Reject(source=shown, reason="the file is not there", kind="missing")
        return
    except (NotFound, Denied, InvalidInput) as exc:
        yield rejects.refused(shown, exc)
        return
    except (FFmpegError, OSError, ValueError, IndexError) as exc:
        told.problem = getattr(exc, "strerror", None) or str(exc)
        if not told.given and not told.reached_s:
            yield Reject(source=shown, reason=f"not a video that can be read, or cut short: {told.problem}")
            return
    if problem := told.verdict():
        yield Reject(source=shown, reason=problem)


def _open(video: SourceFile, lake: Lake, throttle: Throttle) -> io.BufferedIOBase:
    if video.data is not None:
        return io.BytesIO(video.data)
    if not _is_remote(video):
        return Path(video.path).open("rb")
    if video.size_bytes > LARGEST_REMOTE_BYTES:
        raise InvalidInput(f"larger than {LARGEST_REMOTE_BYTES >> 20} MiB; copy it to a disk and ingest it from there")
    throttle.take(video.size_bytes)
    data = lake.read(video.path)
    throttle.take(max(0, len(data) - video.size_bytes))  # A list may say nothing of the size.
    return io.BytesIO(data)


def _is_remote(video: SourceFile) -> bool:
    return video.path.startswith("s3://")


def _check_bytes(file: io.BufferedIOBase, video: SourceFile) -> None:
    """Whether there are any, and whether they are what their list announces.

    Raises:
        InvalidInput: They are not.
    """
    if not file.seek(0, io.SEEK_END):
        raise InvalidInput("the file is empty")
    file.seek(0)
    if video.digest is not None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != video.digest:
            raise InvalidInput(f"its bytes have the digest {digest}, but the manifest announces {video.digest}")
        file.seek(0)


def _frames(
    container: InputContainer,
    video: SourceFile,
    options: VideoOptions,
    *,
    told: _Told,
    meter: Meter,
    throttle: Throttle,
) -> Iterator[SourceFile]:
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise InvalidInput("it has no pictures")
    stream.thread_type = "AUTO"
    if options.keyframes:
        stream.codec_context.skip_frame = "NONKEY"
    told.announced_s = container.duration / 1e6 if container.duration else None
    described = _described(video, container, options)
    fps, due, begun, latest = Fraction(options.fps), Fraction(0), meter.position, Fraction(0)
    if stream.start_time is not None and stream.time_base is not None:
        told.zero = stream.start_time * stream.time_base
    is_paid = video.data is not None or _is_remote(video)
    for picture in _pictures(container, stream, told=told, throttle=throttle, is_paid=is_paid):
        stamp = picture.pts if picture.pts is not None else picture.dts
        if stamp is None or picture.time_base is None:
            told.damage()
            continue
        at = told.since_start(stamp * picture.time_base)
        if meter.unit == "file" and told.announced_s:
            meter.position = begun - 1 + min(1.0, told.reached_s / told.announced_s)
        if at < latest - _JUMP_S:
            told.problem = "its clock jumps back there, so later frames have times that come twice"
            due = Fraction(0)
        latest = at
        if picture.is_corrupt:
            told.damage()
        elif at >= due:
            due = (math.floor(at * fps) + 1) / fps
            yield _source_file(described, _jpeg(picture), at=at)
            told.given += 1
    meter.position = begun


def _pictures(
    container: InputContainer, stream: VideoStream, *, told: _Told, throttle: Throttle, is_paid: bool
) -> Iterator[VideoFrame]:
    """All pictures that are whole. After a damaged one everything up to the next keyframe builds on it, so that is left out, too: what a decoder
    makes up there differs with the number of its threads.
    """
    from av.error import FFmpegError

    is_sound = True
    for packet in container.demux(stream):
        if not is_paid:
            throttle.take(packet.size)
        if packet.pts is not None and packet.time_base is not None:
            told.since_start(packet.pts * packet.time_base)
        if packet.is_corrupt:
            is_sound = False
        elif (
            packet.is_keyframe or not packet.size
        ):  # The last packet is empty and asks for what is still being decoded.
            is_sound = True
        if not is_sound:
            told.damage()
            continue
        try:
            yield from packet.decode()
        except FFmpegError:
            told.damage()
            is_sound = False


def _described(video: SourceFile, container: InputContainer, options: VideoOptions) -> SourceFile:
    """The video as a pattern for its frames: what is said about it, completed by what it says itself."""
    said = video.said
    drive = said.drive or metadata.valid_text(_drive(video))
    start = said.captured_at or options.start or _creation_time(container)
    return replace(video, said=replace(said, drive=drive, captured_at=start), container=video.shown, digest=None)


def _drive(video: SourceFile) -> str:
    """Folders of one name are in many places, so all of a relative name counts; of any other the last folder must do."""
    name = PurePosixPath(posixpath.normpath(video.name))
    if "://" not in video.name and not name.is_absolute() and name.parts[0] != "..":
        if len(name.parts) > 1 or video.data is not None:
            return str(name.with_suffix(""))
        name = PurePosixPath(video.path)
    return f"{name.parent.name}/{name.stem}".lstrip("/")


def _creation_time(container: InputContainer) -> datetime | None:
    try:
        found = metadata.parse_moment(container.metadata.get("creation_time", ""))
    except InvalidInput:
        return None
    return found if found.year > 1970 else None  # A clock that was never set begins there, or in 1904.


def _source_file(video: SourceFile, data: bytes, *, at: Fraction) -> SourceFile:
    said, place = video.said, f"t={float(at):012.6f}"
    start = said.captured_at
    attributes = {"video": PurePosixPath(video.name).name, "video_time_s": round(float(at), 6), **said.attributes}
    captured_at = None if start is None else frames.to_the_millisecond(start + timedelta(seconds=float(at)))
    joint = "&" if "#" in video.uri else "#"
    return replace(
        video,
        path=f"{video.uri}{joint}{place}",
        name=f"{video.name}#{place}",
        size_bytes=len(data),
        said=replace(said, captured_at=captured_at, attributes=attributes),
        data=data,
    )


def _jpeg(picture: VideoFrame) -> bytes:
    """The picture, upright, as a JPEG that every machine makes the same."""
    from av.video.reformatter import Interpolation
    from PIL import Image

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    pixels = picture.to_ndarray(format="rgb24", interpolation=int(exact), threads=1)
    image = Image.fromarray(pixels)
    if picture.rotation % 360:
        image = image.rotate(picture.rotation, expand=True)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
