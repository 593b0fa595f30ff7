"""``crispmask demo`` on videos: a drawn video, rows of its frames, and sentences for what is broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from crispmask.cli import main
from crispmask.data.video import Frame, read_frames
from tests.cli.test_demo_verb import demo
from tests.data.test_video import write_video


def test_a_video_becomes_a_video_and_rows(
    tiny_weights: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = write_video(tmp_path / "clip.MP4", 12, (96, 128)), tmp_path / "out"
    image = shapes_root / "shapes" / "val" / "000002.png"
    flags = ["--every", 4, "--show", "outline", "--save", "json", "--save", "yolo", "--score-threshold", 0]
    flags += ["--batch-size", 2, "TEST.DETECTIONS_PER_IMAGE", 3]
    assert main(demo(tiny_weights, [clip, image], out, *flags)) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 image drawn" in printed and "3 frames drawn into" in printed and "sound" not in printed
    before = list(read_frames(clip, every=4))
    for name in ("clip.mp4", "clip-outline.mp4"):
        after = list(read_frames(out / name))
        assert [frame.seconds for frame in after] == pytest.approx([f.seconds for f in before], abs=1e-3)
        assert all((a.picture != b.picture).any() for a, b in zip(after, before, strict=True))
    rows = json.loads((out / "results.json").read_text())
    frames = [(row["image_id"], row["file_name"], row.get("frame")) for row in rows]
    numbered = [(3, "clip.MP4", 0), (4, "clip.MP4", 4), (5, "clip.MP4", 8)]
    assert dict.fromkeys(frames) == dict.fromkeys([(2, "000002.png", None), *numbered])
    assert sorted(path.name for path in (out / "labels").iterdir()) == [
        *("000002.txt", "clip-000000.txt", "clip-000004.txt", "clip-000008.txt")
    ]


def test_broken_videos_are_named_and_the_others_are_done(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken = write_video(tmp_path / "good.mp4", 3), tmp_path / "broken.mp4"
    broken.write_bytes(good.read_bytes()[:300])
    with pytest.raises(SystemExit, match=r"^1$"):
        main(demo(tiny_weights, [broken, good, tmp_path / "nowhere.mov"], tmp_path / "out"))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 2 and "broken.mp4' cannot be read" in lines[0] and "nowhere.mov" in lines[1]
    assert "3 frames drawn into" in out and "0 frames drawn into" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.mp4"]


def test_a_camera_is_a_video_without_end(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crispmask.data import video

    given = []

    def frames(number: int, every: int) -> object:
        assert (number, every) == (0, 1)
        while True:
            given.append(len(given))
            yield Frame(len(given), np.full((48, 64, 3), 90, np.uint8), video.Fraction(len(given), 30))

    monkeypatch.setattr(video, "read_camera", frames)
    words = ["--config-file", demo(tiny_weights, [], tmp_path)[3], "--weights", str(tiny_weights)]
    assert main(["demo", *words, "--camera", "0", "--frames", "4", "--output", str(tmp_path / "out")]) == 0
    assert "4 frames drawn into" in capsys.readouterr().out and len(given) == 4
    assert len(list(read_frames(tmp_path / "out" / "camera-0.mp4"))) == 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--show", "quadtree"], "--show quadtree is for images"),
        (["--save", "labelme"], "--save labelme is for images"),
        (["--output", "."], "would be overwritten"),
    ],
)
def test_wishes_that_videos_cannot_have_are_one_sentence(
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = demo(tiny_weights, write_video(tmp_path / "clip.mp4", 2), tmp_path / "out", *flags)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1


def test_without_its_package_nothing_is_started(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(demo(tiny_weights, clip, tmp_path / "out")) == 2
    assert "Videos and cameras need a package" in capsys.readouterr().err
