"""What ``crispmask demo`` writes of each image or frame: pictures, videos, masks, labels and results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crispmask.cli.demo_inputs import Shot
from crispmask.cli.output import RowFile, say
from crispmask.cli.views import STYLES, view_kinds, view_sheets
from crispmask.result_files import (
    save_labelme,
    save_masks,
    save_png,
    save_soft_masks,
    save_yolo,
    save_yolo_names,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crispmask.cli.demo_ids import ResultIds
    from crispmask.engine.predictor import Predictor
    from crispmask.results import Result


class Outputs:
    """Writes what the flags of the demo ask for, as context: videos and results are whole when it ends."""

    def __init__(
        self,
        args: argparse.Namespace,
        predictor: Predictor,
        other: Predictor | None,
        rows: RowFile | None,
        ids: ResultIds | None,
    ) -> None:
        """
        Args:
            args: the flags.
            predictor: the model.
            other: that of ``--compare``.
            rows: where results go; None: nowhere.
            ids: of the images and classes in ``rows``.

        Attributes:
            rates: frames per second of each video, by its stem.
            frames: of each video, that are drawn.
            expected: frames of all videos; 0: it is not known.
        """
        self.folder, self.args = Path(args.output), args
        self.predictor, self.other, self.rows, self.ids = predictor, other, rows, ids
        self.rates: dict[str, Fraction] = {}
        self.frames: dict[str, int] = {}
        self.expected = 0
        self._videos: dict[str, Any] = {}
        self._filled = 0

    def write(self, shot: Shot, result: Result) -> None:
        """Everything of one image or frame."""
        for kind in ("fill", *(kind for kind in STYLES if kind in self.args.show)):
            name = "" if kind == "fill" else f"-{kind}"
            self._write_picture(shot, name, result.draw(style=kind, scale=self.args.scale))
        if not shot.video:
            self._write_sheets(shot, result)
        self._save(shot, result)
        if self.rows and self.ids:
            self.rows.add(self.ids.rows(shot, result))

    def _write_picture(self, shot: Shot, name: str, image: Any) -> None:
        import numpy as np

        from crispmask.data.video import VideoWriter

        if not shot.video:
            save_png(np.asarray(image), self.folder / f"{shot.stem}{name}.png")
            return
        path = self.folder / f"{shot.video}{name}.mp4"
        if str(path) not in self._videos:
            if not name:
                self.close_videos()
            self._videos[str(path)] = VideoWriter(path, self.rates.get(shot.video, Fraction(25)))
        self._videos[str(path)].add(np.asarray(image), shot.seconds)
        self.frames[shot.video] = self.frames.get(shot.video, 0) + (not name)

    def _write_sheets(self, shot: Shot, result: Result) -> None:
        for kind, sheet in self._sheets(shot, result).items():
            save_png(sheet, self.folder / f"{shot.stem}-{kind}.png")

    def _sheets(self, shot: Shot, result: Result) -> dict[str, NDArray[np.uint8]]:
        sheets: dict[str, NDArray[np.uint8]] = {}
        picture = result.kept_picture()
        if any(kind in view_kinds() for kind in self.args.show):
            sheets = view_sheets(self.predictor, picture, self.args.show, self.args.score_threshold)
            if not sheets:
                name, score = Path(shot.title).name, self.args.score_threshold
                say(f"{name}: no object reaches --score-threshold {score}, so no sheet of --show")
        if self.other is not None:
            from crispmask.analysis.comparison import comparison_sheet

            other = self.other(picture, min_score=self.args.score_threshold)
            sheets["compare"] = comparison_sheet(result, other, names=("first", "--compare"))
        return sheets

    def _save(self, shot: Shot, result: Result) -> None:
        wishes = self.args.save
        if "masks" in wishes:
            save_masks(result, self.folder / "masks" / shot.stem)
        if "soft" in wishes:
            save_soft_masks(result, self.folder / "soft" / shot.stem)
        if "yolo" in wishes:
            self._filled += save_yolo(result, self.folder / "labels" / f"{shot.stem}.txt")
        if "labelme" in wishes and not shot.video:
            save_labelme(result, self.folder / "labelme" / f"{shot.stem}.json", Path(shot.title))

    def finish(self) -> None:
        """What is written once, and what has to be said."""
        self.close_videos()
        if "yolo" in self.args.save:
            save_yolo_names(self.predictor.classes, self.folder / "data.yaml")
        if self._filled:
            say(f"note: labels of YOLO cannot hold holes: those of {self._filled} objects are filled.")

    def close_videos(self) -> None:
        """Give the videos that are being written their names."""
        videos, self._videos = self._videos, {}
        for video in videos.values():
            video.close()

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_videos()
        if self.rows:
            self.rows.close()


def check_wishes(args: argparse.Namespace, has_images: bool, has_videos: bool) -> None:
    """Stop where ``--show`` and ``--save`` ask for what cannot be.

    Raises:
        UserError: a sheet of a video, ``--compare`` without ``--show compare``, or without its model.
    """
    from crispmask.errors import UserError

    if ("compare" in args.show) != bool(args.compare):
        raise UserError("--show compare and --compare WEIGHTS belong together: give both, or none.")
    sheets = [kind for kind in args.show if kind not in STYLES]
    if has_videos and sheets:
        raise UserError(f"--show {sheets[0]} is for images: give it without videos and cameras.")
    if has_videos and not has_images and "labelme" in args.save:
        raise UserError("--save labelme is for images: LabelMe opens no frames of videos.")


def describe_videos(outputs: Outputs, stems: Sequence[str], sound: Sequence[str]) -> None:
    """Say how many frames of each video are drawn, and that its sound is left out."""
    for stem in stems:
        number = outputs.frames.get(stem, 0)
        silent = ", without its sound" if stem in sound else ""
        say(f"{number} frame{'s' * (number != 1)} drawn into {outputs.folder / stem}.mp4{silent}")
