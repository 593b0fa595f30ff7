"""Videos and cameras, frame by frame, and videos of drawn frames, by PyAV; sound is neither read nor written.

Shapes: H, W the frame as a player shows it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispmask.data.images import ImageError
from crispmask.errors import UserError

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
# Of a video whose file does not say
_USUAL_RATE = 25
# How systems name their cameras, and the part of FFmpeg that reads them
_CAMERAS = {
    "linux": ("video4linux2,v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}


class Frame(NamedTuple):
    """One frame: its number in the video, from 0, (H, W, 3) uint8 RGB, and seconds from the first frame."""

    number: int
    picture: NDArray[np.uint8]
    seconds: Fraction


class VideoHeader(NamedTuple):
    """What a video says of itself: frames (0: nothing), frames per second, and whether it has sound."""

    frames: int
    rate: Fraction
    has_sound: bool


def require_av() -> Any:
    """The package PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            'Videos and cameras need a package: pip install "crispmask[video]", or av.'
        ) from error
    return av


def read_video_header(path: str | Path) -> VideoHeader:
    """Look at a video without decoding it.

    Raises:
        ImageError: it cannot be read, or has no pictures.
    """
    with _opened(str(path)) as (_, stream, container):
        rate = stream.average_rate or Fraction(_USUAL_RATE)
        return VideoHeader(stream.frames, Fraction(rate), bool(container.streams.audio))


def read_frames(path: str | Path, every: int = 1) -> Iterator[Frame]:
    """The frames of a video one after the other, upright, so that memory does not grow with its length.

    Args:
        path: a file.
        every: 1: all frames; N: the first of each N.

    Raises:
        ImageError: the file cannot be read, or ends in the middle; what came before was given.
    """
    with _opened(str(path)) as (av, stream, container):
        yield from _decoded(av, container, stream, every, f"Video '{path}'")


def read_camera(number: int = 0, every: int = 1) -> Iterator[Frame]:
    """The frames of a camera, without end, see :func:`read_frames`."""
    form, name = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
    with _opened(name.format(number), form, f"Camera {number}") as (av, stream, container):
        yield from _decoded(av, container, stream, every, f"Camera {number}")


class VideoWriter:
    """A video of frames that come one after the other: H.264 in MP4, which browsers and phones play.

    The file has its name once it is whole, that is once this is closed; without a frame there is none. Sides
    of an odd number of pixels get one more, for the format has no such.
    """

    def __init__(self, path: Path, rate: Fraction = Fraction(_USUAL_RATE)) -> None:
        """
        Args:
            path: ends in ``.mp4``.
            rate: frames per second, of players that look no closer: each frame has its own time.
        """
        self.path, self.rate = path, rate
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        self._container: Any = None
        self._stream: Any = None
        self._last = Fraction(-1)

    def add(self, picture: NDArray[np.uint8], seconds: Fraction) -> None:
        """Append a frame, (H, W, 3) uint8 RGB of one size for all, that is shown at a time.

        Raises:
            ImageError: it has another size than the first.
            OSError: the file cannot be written.
        """
        av = require_av()
        height, width = picture.shape[:2]
        if self._stream is None:
            self._open(av, height + height % 2, width + width % 2)
        pad = (self._stream.height - height, self._stream.width - width)
        if not set(pad) <= {0, 1}:
            raise ImageError(f"A frame of '{self.path}' is {width} x {height}, and others are not.")
        padded = np.pad(picture, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame.time_base = self._stream.codec_context.time_base
        frame.pts = max(round(seconds / frame.time_base), round(self._last / frame.time_base) + 1)
        self._last = frame.pts * Fraction(frame.time_base)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left, and give the file its name."""
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._partial, self.path)
        finally:
            self._container = None
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, av: Any, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._partial), "w")
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self.rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        # Fine enough for any camera
        self._stream.codec_context.time_base = Fraction(1, 90000)
        if codec == "libx264":
            self._stream.options = {"crf": "18", "preset": "veryfast"}


@contextmanager
def _opened(name: str, form: str | None = None, what: str = "") -> Iterator[tuple[Any, Any, Any]]:
    """PyAV, the pictures of a video, and the video."""
    av = require_av()
    what = what or f"Video '{name}'"
    try:
        # From 19 on there is no such argument
        options = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = av.open(name, format=form, **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"{what} cannot be read: {_reason(error)}.") from error
    with container:
        if not container.streams.video:
            raise ImageError(f"{what} cannot be read: it has no pictures.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield av, stream, container


def _decoded(av: Any, container: Any, stream: Any, every: int, what: str) -> Iterator[Frame]:
    number, first = 0, None
    frames = container.decode(stream)
    while True:
        try:
            frame = next(frames, None)
        except av.error.FFmpegError as error:
            raise ImageError(f"{what} cannot be read beyond frame {number}: {_reason(error)}.") from error
        if frame is None:
            break
        seconds = _seconds(frame, stream, number)
        first = seconds if first is None else first
        if number % every == 0:
            yield Frame(number, _upright(frame), seconds - first)
        number += 1
    if first is None:
        raise ImageError(f"{what} cannot be read: it has no frame.")
    if number < 0.98 * stream.frames - 1:  # some files count frames that are not shown
        raise ImageError(f"{what} is cut short: it has {number} of its {stream.frames} frames.")
    _check_length(container, seconds - first, what)


def _check_length(container: Any, last: Fraction, what: str) -> None:
    """Stop where a file without sound, which might be longer, ends long before it says."""
    said = 0 if container.streams.audio else (container.duration or 0) / 1e6
    if last + 1 < 0.9 * said:
        raise ImageError(f"{what} is cut short: it ends after {float(last):.1f} of its {said:.1f} seconds.")


def _seconds(frame: Any, stream: Any, number: int) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        return number / Fraction(stream.average_rate or _USUAL_RATE)
    return frame.pts * Fraction(frame.time_base)


def _upright(frame: Any) -> NDArray[np.uint8]:
    """The picture as a player shows it: phones film lying and say by how much it is to be turned."""
    picture = frame.to_ndarray(format="rgb24")
    quarters = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".") or type(error).__name__
