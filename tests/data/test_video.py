"""Videos are read and written frame by frame, and one that is broken is one sentence."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from crispmask.data.images import ImageError
from crispmask.data.video import VideoWriter, read_camera, read_frames, read_video_header
from crispmask.errors import UserError


def write_video(path: Path, frames: int = 12, size: tuple[int, int] = (48, 64)) -> Path:
    """Grey frames, each lighter than the one before, with a white upper half, 10 of them a second."""
    with VideoWriter(path, Fraction(10)) as video:
        for number in range(frames):
            picture = np.full((*size, 3), 10 * number, np.uint8)
            picture[: size[0] // 2] = 255
            video.add(picture, Fraction(number, 10))
    return path


def test_frames_come_as_they_were_written(tmp_path: Path) -> None:
    path = write_video(tmp_path / "new" / "a.mp4")
    header = read_video_header(path)
    assert (header.frames, header.rate, header.has_sound) == (12, 10, False)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(12))
    assert [float(frame.seconds) for frame in frames] == pytest.approx(np.arange(12) / 10, abs=1e-3)
    for frame in frames:
        assert frame.picture.shape == (48, 64, 3)
        assert abs(int(frame.picture[40, 30, 0]) - 10 * frame.number) < 6 and frame.picture[5, 30, 0] > 245
    assert [frame.number for frame in read_frames(path, every=5)] == [0, 5, 10]
    assert [path.name for path in path.parent.iterdir()] == ["a.mp4"]


def test_odd_sides_get_a_pixel_and_no_frame_makes_no_file(tmp_path: Path) -> None:
    (frame, *_) = read_frames(write_video(tmp_path / "odd.mp4", 2, (33, 65)))
    assert frame.picture.shape == (34, 66, 3)
    write_video(tmp_path / "none.mp4", 0)
    assert not (tmp_path / "none.mp4").exists()


def test_frames_at_any_time_keep_it(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 3), Fraction(1, 3), Fraction(5, 2)]
    with VideoWriter(tmp_path / "a.mp4") as video:
        for seconds in times:
            video.add(np.zeros((32, 32, 3), np.uint8), seconds)
    read = [float(frame.seconds) for frame in read_frames(tmp_path / "a.mp4")]
    assert read == pytest.approx([0, 1 / 3, 1 / 3, 2.5], abs=1e-3)


def test_a_video_filmed_lying_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(-90)
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (frame,) = read_frames(path)
    assert frame.picture.shape == (64, 48, 3)
    assert frame.picture[30, 40, 0] > 240 and frame.picture[30, 8, 0] < 15


def write_matroska(path: Path) -> bytes:
    """A video of noise that says how long it is, but not of how many frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for noise in np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_broken_videos_are_one_sentence(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    matroska = write_matroska(tmp_path / "a.mkv")
    for name, content, named in [
        ("head.mp4", whole[: len(whole) // 2], "cannot be read: "),
        ("text.mp4", b"no video at all\n" * 50, "cannot be read: "),
        ("empty.mp4", b"", "cannot be read: "),
        ("cut.mkv", matroska[: len(matroska) // 3], "is cut short: it ends after .* of its 4.0 seconds"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError, match=named) as raised:
            list(read_frames(path))
        assert name in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ImageError, match=r"nowhere\.mp4' cannot be read: No such file"):
        read_video_header(tmp_path / "nowhere.mp4")
    with pytest.raises(ImageError, match="Camera 63 cannot be read"):
        next(read_camera(63))


def test_without_its_package_videos_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r'pip install "crispmask\[video\]"'):
        next(read_frames("a.mp4"))
