"""What ``crispmask demo`` works on, image by image and frame by frame, and how its files are named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from crispmask.errors import UserError, print_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crispmask.engine.predictor import Predictor
    from crispmask.results import Result


@dataclass(frozen=True)
class Shot:
    """An image, or a frame of a video.

    Attributes:
        title: what messages call it.
        path: its file, or that of the video; None: a camera.
        name: ``file_name`` of its results.
        stem: of the files that are made of it, in the folder of the output.
        video: stem of its video; empty: it is an image.
        number: of the frame, from 0.
        seconds: of the frame in its video.
    """

    title: str
    path: Path | None
    name: str
    stem: str
    video: str = ""
    number: int = 0
    seconds: Fraction = field(default=Fraction(0))


# Images that the model runs on at once
Batch = list[tuple[Shot, "NDArray[np.uint8]"]]


@dataclass(frozen=True)
class Inputs:
    """Images and videos in the order given, images first, and the number of a camera, or None.

    Attributes:
        images: without their pictures.
        videos: path of each, and its stem.
        camera: of this machine.
    """

    images: list[Shot]
    videos: dict[Path, str]
    camera: int | None


class Failures:
    """Names what cannot be read, worked on or written on stderr, and counts it."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def naming(self, title: str, wish: str = "The picture of") -> Iterator[None]:
        """Name a shot whose body fails, and go on; a :class:`UserError` is one for all, and passes."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self.name(title, error, wish)

    def name(self, title: str, error: Exception, wish: str = "The picture of") -> None:
        """Say in a sentence why something was not done."""
        from crispmask.data.images import ImageError

        self.number += 1
        if isinstance(error, ImageError):
            message = str(error)
        elif isinstance(error, OSError):
            message = f"{wish} '{title}' cannot be written: {error.strerror or error}."
        elif (
            isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "memory" in str(error)
        ):
            message = (
                f"Image '{title}' needs more memory than there is: make it smaller, or take --batch-size 1."
            )
        else:
            reason = shorten(str(error), 200, placeholder=" ...") or type(error).__name__
            message = f"Image '{title}' cannot be worked on: {reason.rstrip('.')}."
        print_error("crispmask", message)


def plan_inputs(
    words: Sequence[str], camera: int | None, *, recursive: bool, output: str, kinds: Sequence[str]
) -> Inputs:
    """Find the images and videos, before a model is loaded.

    Args:
        words: of ``--input``.
        camera: of ``--camera``.
        recursive: search folders in folders.
        output: the folder that is written to, which is not searched.
        kinds: of further pictures of an image, as ``outline``, which are named ``<stem>-outline.png``.

    Raises:
        UserError: there is nothing to draw, or an input would be overwritten.
    """
    from crispmask.visualization.files import find_images, is_video, output_stems

    if not words and camera is None:
        raise UserError(
            "There is nothing to draw: give --input with images, folders or videos, or --camera 0."
        )
    for word in words:
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", word) and not os.path.exists(word):
            raise UserError(f"'{word}' follows --input as if it were an image: put another flag before it.")
    found = find_images(words, recursive=recursive, leave_out=output)
    stems = dict(zip(found, output_stems(list(found.values())), strict=True))
    images = [Shot(str(path), path, found[path], stems[path]) for path in found if not is_video(path)]
    videos = {path: stems[path] for path in found if is_video(path)}
    pictures = {os.path.realpath(Path(output, f"{shot.stem}.png")) for shot in images}
    sheets = {os.path.realpath(Path(output, f"{shot.stem}-{kind}.png")) for shot in images for kind in kinds}
    if twice := sheets & pictures:
        raise UserError(f"'{min(twice)}' would be a picture and a sheet of --show: draw one image at a time.")
    written = {os.path.realpath(Path(output, f"{stem}.mp4")) for stem in videos.values()} | pictures | sheets
    if overwritten := set(map(os.path.realpath, found)) & written:
        raise UserError(f"'{min(overwritten)}' would be overwritten: give another folder to --output.")
    return Inputs(images, videos, camera)


def read_images(
    predictor: Predictor, shots: Iterable[Shot], failures: Failures
) -> Iterator[tuple[Shot, Any]]:
    """Images with their pictures; one that cannot be read is named and left out."""
    for shot in shots:
        with failures.naming(shot.title):
            yield shot, predictor.read(shot.path or shot.title)


def read_shots(
    inputs: Inputs, failures: Failures, every: int, most: int | None
) -> Iterator[tuple[Shot, NDArray[np.uint8]]]:
    """Frames of the videos and of the camera; where one cannot be read on, that is named.

    Args:
        inputs: images among them are left out.
        failures: which are told.
        every: N: the first of each N frames.
        most: frames of a video at most; None: all.
    """
    from crispmask.data.video import read_camera, read_frames

    sources: list[tuple[Path | None, str, Any]] = [
        (path, stem, read_frames(path, every)) for path, stem in inputs.videos.items()
    ]
    if inputs.camera is not None:
        sources.append((None, f"camera-{inputs.camera}", read_camera(inputs.camera, every)))
    for path, stem, frames in sources:
        name = stem if path is None else path.name
        with failures.naming(name):
            for frame in islice(frames, most):
                title = f"{name}, frame {frame.number}"
                yield (
                    Shot(title, path, name, f"{stem}-{frame.number:06d}", stem, frame.number, frame.seconds),
                    frame.picture,
                )


def batched(shots: Iterable[tuple[Shot, Any]], size: int) -> Iterator[Batch]:
    """Shots that the model runs on at once, of one video or of none."""
    batch: Batch = []
    for shot in shots:
        if batch and (len(batch) == size or batch[0][0].video != shot[0].video):
            yield batch
            batch = []
        batch.append(shot)
    if batch:
        yield batch


def predicted(
    predict: Callable[..., list[Result]], batches: Iterable[Batch], failures: Failures
) -> Iterator[tuple[Shot, Result]]:
    """What is found in each image; of a batch that fails each is tried alone, and named if it fails.

    Args:
        predict: is called with the pictures of a batch, and their paths.
        batches: of :func:`batched`.
        failures: which are told.
    """
    for batch in batches:
        try:
            results = predict([picture for _, picture in batch], [shot.path for shot, _ in batch])
        except UserError:
            raise
        except Exception as error:
            if len(batch) > 1:
                yield from predicted(predict, [[shot] for shot in batch], failures)
            else:
                failures.name(batch[0][0].title, error)
            continue
        yield from zip((shot for shot, _ in batch), results, strict=True)
