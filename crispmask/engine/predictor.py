"""A trained model for images that are in no data set: public as ``crispmask.Predictor``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image

from crispmask.data.images import ImageError
from crispmask.data.in_memory import from_array, from_pil, from_tensor
from crispmask.data.mapper import ImageMapper
from crispmask.engine.trained_model import load_trained_model, model_classes, trained_config
from crispmask.errors import UserError
from crispmask.evaluation.device_masks import encode_masks
from crispmask.modeling.typed import device_of
from crispmask.pasting import encode_pasted
from crispmask.results import Result

# What one image may be
Picture = str | Path | Image.Image | NDArray[Any] | torch.Tensor
# Types of the argument dtype, beside None
DTYPES = {"half": torch.float16, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Predictor:
    """A trained model that takes images of any kind and gives what it finds in them.

    ::

        predictor = crispmask.Predictor("output/model_final.pth")
        result = predictor("photo.jpg")
        result.above(0.5).draw().save("drawn.png")

    Images are read and resized as in the evaluation (``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``), so
    with a batch size of 1 and no ``dtype`` the objects are those that are evaluated, bit for bit.

    Attributes:
        cfg: the config of the model, frozen.
        model: Detectron2's model, in evaluation mode.
        classes: names and category ids of its classes.
    """

    def __init__(
        self,
        weights_or_config: str | Path | CfgNode,
        *,
        config: str | Path | None = None,
        opts: Sequence[object] = (),
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        """
        Args:
            weights_or_config: a weight file of a training with CrispMask, which has its config in it; a
                config file with ``MODEL.WEIGHTS``; or a config.
            config: the config file of a weight file that has none in it.
            opts: ``KEY, VALUE, KEY, VALUE, ...``, changes to the config.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: that of the config, or the CPU without a GPU.
            dtype: ``"bfloat16"`` or ``"half"``: the type in which convolutions and products are computed;
                None: float32.
            compile: let torch compile the backbone, which takes minutes at the first image of each new size.

        Raises:
            UserError: there are no weights, they cannot be read, or they are those of another model; there is
                no such device; or ``dtype`` is none of these.
        """
        self.cfg = trained_config(weights_or_config, config=config, opts=opts, device=device)
        self.dtype = _checked_dtype(dtype)
        self.model = load_trained_model(self.cfg)
        self.classes = model_classes(self.cfg)
        self.mapper = ImageMapper(self.cfg, is_train=False)
        if self.dtype == torch.float16:
            self.model.get_submodule("backbone").register_forward_hook(_check_features)
        if compile:
            self.model.get_submodule("backbone").compile()

    def __call__(
        self,
        images: Picture | Iterable[Picture],
        *,
        batch_size: int = 1,
        min_score: float = 0.0,
        bgr: bool = False,
    ) -> Any:
        """Find the objects of images.

        Args:
            images: one image, a list or tuple, or anything that gives one after the other, as a generator. An
                image is a path, an image of Pillow, an array (H, W) or (H, W, 3) or (H, W, 4), or a tensor
                (C, H, W). Arrays and tensors are RGB, grey or with alpha; uint8, floats from 0 to 1, or, as
                files are, of 16 bits.
            batch_size: images that the model runs on at once. Smaller ones are padded to the size of the
                largest, which changes what is found in them by a little.
            min_score: lowest score of the objects that are given, 0 to 1.
            bgr: arrays and tensors have blue first, as OpenCV reads images.

        Returns:
            A :class:`~crispmask.results.Result` for one image, a list of them for a list or tuple. For a
            generator an iterator, which reads on as it is asked, so that memory does not grow with the number
            of images; each result holds its picture.

        Raises:
            ImageError: an image cannot be read, or is none; it has the number of the image.
            UserError: ``batch_size`` or ``min_score`` is wrong, or the model finds no instances.
        """
        if batch_size < 1 or not 0 <= min_score <= 1:
            raise UserError(f"batch_size {batch_size} must be 1 or more, min_score {min_score} from 0 to 1.")
        if isinstance(images, str | Path | Image.Image):
            return next(self._results([images], 1, min_score, bgr))
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim < 4:
            return next(self._results([images], 1, min_score, bgr))
        if not isinstance(images, Iterable) or isinstance(images, dict | bytes):
            raise ImageError(f"{type(images).__name__} is no image: give a path, an array or a tensor.")
        results = self._results(images, batch_size, min_score, bgr)
        return list(results) if isinstance(images, list | tuple | np.ndarray | torch.Tensor) else results

    def read(self, image: Picture, *, bgr: bool = False) -> NDArray[np.uint8]:
        """An image as the training would read it, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: it cannot be read, or is none.
        """
        value_range = self.mapper.value_range
        if isinstance(image, str | Path):
            return self.mapper.read(str(image))
        if isinstance(image, Image.Image):
            return from_pil(image, value_range)
        if isinstance(image, torch.Tensor):
            return from_tensor(image, value_range, bgr=bgr)
        if isinstance(image, np.ndarray):
            return from_array(image, value_range, bgr=bgr)
        raise ImageError(f"{type(image).__name__} is no image: give a path, an array or a tensor.")

    def model_input(self, picture: NDArray[np.uint8]) -> dict[str, Any]:
        """What Detectron2's models take for a picture (H, W, 3) uint8 RGB."""
        return self.mapper.model_input(picture)

    def predict(
        self, pictures: Sequence[NDArray[np.uint8]], paths: Sequence[Path | None] = (), min_score: float = 0.0
    ) -> list[Result]:
        """The objects of pictures that :meth:`read` gave, as one batch.

        Args:
            pictures: (H, W, 3) uint8 RGB each, of any sizes.
            paths: their files, if they have any.
            min_score: lowest score of the objects that are given.

        Raises:
            UserError: the model finds no instances but something else.
        """
        if not pictures:
            return []
        inputs = [self.model_input(picture) for picture in pictures]
        with torch.inference_mode(), self._autocast():
            found = self._run(inputs)
        paths = paths or [None] * len(pictures)
        return [self._result(*one, min_score) for one in zip(found, pictures, paths, strict=True)]

    def _results(
        self, images: Iterable[Picture], batch_size: int, min_score: float, bgr: bool
    ) -> Iterator[Result]:
        numbered = enumerate(images, 1)
        while batch := list(islice(numbered, batch_size)):
            pictures = [self._read_numbered(number, image, bgr) for number, image in batch]
            paths = [Path(image) if isinstance(image, str | Path) else None for _, image in batch]
            yield from self.predict(pictures, paths, min_score)

    def _read_numbered(self, number: int, image: Picture, bgr: bool) -> NDArray[np.uint8]:
        try:
            return self.read(image, bgr=bgr)
        except ImageError as error:
            if isinstance(image, str | Path):  # which the message names
                raise
            raise ImageError(f"Image {number}: {error}") from error

    def _autocast(self) -> AbstractContextManager[Any]:
        device = device_of(self.model).type
        return nullcontext() if self.dtype is None else torch.autocast(device, self.dtype)

    def _run(self, inputs: list[dict[str, Any]]) -> list[Instances]:
        """What is found, on the model's device, in pixels of the picture.

        Masks are ``box_probabilities`` (R, M, M) float32 of a model that draws them in boxes, else
        ``pred_masks`` (R, H, W) bool.
        """
        if getattr(type(self.model), "inference", None) is not GeneralizedRCNN.inference:
            outputs = self.model(inputs)
            if "instances" not in outputs[0]:
                given = ", ".join(outputs[0])
                raise UserError(
                    f"The model of this config gives {given} and no instances: give one that does."
                )
            return [output["instances"] for output in outputs]
        inference: Any = GeneralizedRCNN.inference
        found: list[Instances] = inference(self.model, inputs, do_postprocess=False)
        for instances in found:
            if instances.has("pred_masks"):  # which would be pasted all at once
                instances.box_probabilities = instances.pred_masks[:, 0].float()
                instances.remove("pred_masks")
        sizes = [(one["height"], one["width"]) for one in inputs]
        return [detector_postprocess(one, *size) for one, size in zip(found, sizes, strict=True)]

    def _result(
        self, found: Instances, picture: NDArray[np.uint8], path: Path | None, min_score: float
    ) -> Result:
        size = picture.shape[:2]
        found = found[found.scores >= min_score]
        probabilities = rles = None
        boxes = found.pred_boxes.tensor.float()
        if found.has("box_probabilities"):
            rles = tuple(encode_pasted(found.box_probabilities, boxes, size))
            probabilities = found.box_probabilities.cpu().numpy()
        elif found.has("pred_masks"):
            rles = tuple(encode_masks(found.pred_masks).masks)
        return Result(
            size=size,
            boxes=boxes.cpu().numpy(),
            scores=found.scores.float().cpu().numpy(),
            class_indices=found.pred_classes.cpu().numpy(),
            classes=self.classes,
            rles=rles,
            box_probabilities=probabilities,
            picture=picture,
            path=path,
        )


def _checked_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type of autocast, or None."""
    if dtype in (None, "float32", torch.float32):
        return None
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise UserError(f"dtype {dtype} is none of {', '.join(DTYPES)} and float32: give one of them.")
    return found


def _check_features(_: torch.nn.Module, __: Any, features: dict[str, torch.Tensor]) -> None:
    """Stop where nothing would be found without a word, for Detectron2 drops what is not a number."""
    if not all(bool(level.isfinite().all()) for level in features.values()):
        raise UserError("The features of this model leave the range of half: give dtype bfloat16, or none.")
