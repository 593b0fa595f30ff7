"""From a data set's dict to what a model takes; images are those of :mod:`crispmask.data.images`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.data.augmentations import build_augmentations
from crispmask.data.copy_paste import CopyPaste, build_copy_paste
from crispmask.data.deep_images import Range
from crispmask.data.image_files import is_address
from crispmask.data.images import ImageError, read_header, read_image
from crispmask.errors import DataError, UserError

# Values of CRISPMASK.UNREADABLE_IMAGES
UNREADABLE = ("stop", "skip")


class ImageMapper(DatasetMapper):
    """Detectron2's mapper with our reader of images, in training, evaluation and prediction.

    With ``skip`` another image is taken, by chance, for one of the training data that cannot be read, and its
    dict says so, as ``unreadable``: a list of paths, each with a sentence.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        value_range: Range | None = None,
        unreadable: str = "stop",
        copy_paste: CopyPaste | None = None,
        others: Sequence[dict[str, Any]] = (),
        **options: Any,
    ) -> None:
        """
        Args:
            is_train: whether images are augmented and annotations kept.
            value_range: of files of more than 8 bits that state none.
            unreadable: of ``UNREADABLE``; it is for training, evaluation always stops.
            copy_paste: pastes objects of other images, in training.
            others: dicts of the data sets, which ``skip`` and ``copy_paste`` choose from. Detectron2's loader
                would do the first, but that of its release 0.6 cannot with Python 3.11 or newer.
            options: of Detectron2's mapper.

        Raises:
            UserError: ``INPUT.VALUE_RANGE`` is still ``auto``.
            ValueError: there are no ``others`` to paste from.
        """
        super().__init__(is_train, **options)
        if isinstance(value_range, str):
            raise UserError(f"INPUT.VALUE_RANGE {value_range} must be found first, as train_net.py does.")
        self.value_range = value_range
        self.skips = is_train and unreadable == "skip"
        self.copy_paste = copy_paste if is_train else None
        if self.copy_paste is not None and not others:
            raise ValueError("copy_paste needs others, the images to paste from.")
        self.others = others
        self._unread: set[str] = set()
        self._untold: list[tuple[str, str]] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """As Detectron2's, with the augmentations that are ours."""
        options = super().from_config(cfg, is_train)
        return {
            **options,
            "augmentations": build_augmentations(cfg, options["augmentations"], is_train),
            "copy_paste": build_copy_paste(cfg),
            "value_range": cfg.INPUT.VALUE_RANGE,
            "unreadable": cfg.CRISPMASK.UNREADABLE_IMAGES,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A dict of Detectron2's models.

        Raises:
            DataError: the image cannot be read, none of them can, or it has another size than its dict says.
        """
        record = self._map(dataset_dict)
        # Pasted objects have no class of a semantic label file
        if self.copy_paste is not None and "sem_seg" not in record and self.copy_paste.is_due():
            self.copy_paste.paste(record, self._map(self._any_other()))
        if self._untold:
            record["unreadable"], self._untold = self._untold, []
        return record

    def read(self, path: str) -> NDArray[np.uint8]:
        """The picture of a file, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return read_image(_local(path), self.value_range)

    def in_format(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """A picture (H, W, 3) uint8 RGB in ``INPUT.FORMAT``: (H, W, C), float for YUV-BT.601, else uint8."""
        if self.image_format in ("RGB", "BGR"):  # as below, without two copies
            return picture if self.image_format == "RGB" else picture[..., ::-1]
        return detection_utils.convert_PIL_to_numpy(Image.fromarray(picture), self.image_format)

    def model_input(self, picture: NDArray[np.uint8]) -> dict[str, Any]:
        """What Detectron2's models take for a picture (H, W, 3) uint8 RGB that is in no data set."""
        augmented = T.AugInput(self.in_format(picture))
        self.augmentations(augmented)
        height, width = picture.shape[:2]
        return {"image": as_tensor(augmented.image), "height": height, "width": width}

    def _map(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """One image, augmented."""
        record, picture = self._read_record(dataset_dict)
        check_size(record, picture)
        augmented = T.AugInput(self.in_format(picture), sem_seg=_read_labels(record))
        transforms = self.augmentations(augmented)
        size = augmented.image.shape[:2]
        record["image"] = as_tensor(augmented.image)
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, size)
        return record

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        objects = [each for each in dataset_dict["annotations"] if not each.get("iscrowd")]
        if self.recompute_boxes:  # of what is left after a crop
            objects = [each for each in objects if _reaches(each, transforms, image_shape)]
        if objects:
            dataset_dict["annotations"] = objects
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        else:  # after a crop Detectron2 would ask for the boxes of masks that are not there
            del dataset_dict["annotations"]
            dataset_dict["instances"] = detection_utils.annotations_to_instances([], image_shape)

    def _any_other(self) -> dict[str, Any]:
        return self.others[np.random.randint(len(self.others))]

    def _read_record(self, dataset_dict: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """A copy of the dict with its picture, or of another one for it."""
        while True:
            record = copy.deepcopy(dataset_dict)
            try:
                return record, self.read(record["file_name"])
            except ImageError as error:
                self._note_unread(record["file_name"], error)
            while dataset_dict["file_name"] in self._unread:
                dataset_dict = self._any_other()

    def _note_unread(self, path: str, error: ImageError) -> None:
        """Note an image that cannot be read, for the dict of the one that is taken, or raise."""
        sentence = str(error).rstrip(".")
        if not self.skips:
            others = "or set CRISPMASK.UNREADABLE_IMAGES skip" if self.is_train else "or evaluate another"
            raise DataError(f"{sentence}: mend the file, take it out of the data set, {others}.") from error
        self._unread.add(path)
        self._untold.append((path, sentence))
        if all(other["file_name"] in self._unread for other in self.others):
            number = len(self._unread)
            raise DataError(f"None of the {number} images can be read. {sentence}.") from error


def as_tensor(image: NDArray[Any]) -> torch.Tensor:
    """(C, H, W) of an image (H, W, C)."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def check_size(record: dict[str, Any], picture: NDArray[np.uint8]) -> None:
    """The picture has the size that its dict says, which is set where it does not.

    Raises:
        DataError: it has another.
    """
    try:
        detection_utils.check_image_size(record, picture)
    except detection_utils.SizeMismatchError:
        height, width = picture.shape[:2]
        is_swapped = (record.get("height"), record.get("width")) == (width, height)
        way = (
            "its EXIF tag turns it: annotate it as it is shown, or remove the tag"
            if is_swapped and read_header(_local(record["file_name"])).is_turned
            else "correct its annotations, or put the right image in its place"
        )
        raise DataError(
            f"Image '{record['file_name']}' is {width} x {height}, but its data set says "
            f"{record.get('width')} x {record.get('height')}: {way}."
        ) from None


def _local(path: str) -> str:
    """Path on this machine of an image that one of Detectron2's path handlers may have to fetch.

    Raises:
        ImageError: it cannot be fetched.
    """
    if not is_address(path):
        return path
    try:
        return PathManager.get_local_path(path)
    except OSError as error:
        raise ImageError(f"Image file '{path}' cannot be fetched: {error}.") from error


def _reaches(annotation: dict[str, Any], transforms: T.TransformList, size: tuple[int, int]) -> bool:
    """Whether a mask of run lengths, which takes time to decode, can have pixels in a transformed image."""
    mask = annotation.get("segmentation")
    if not isinstance(mask, dict):
        return True
    x, y, width, height = mask_utils.toBbox(mask)
    x0, y0, x1, y1 = transforms.apply_box(np.array([[x, y, x + width, y + height]]))[0]
    return x0 < size[1] and y0 < size[0] and x1 > 0 and y1 > 0


def _read_labels(record: dict[str, Any]) -> NDArray[np.uint8] | None:
    """(H, W) class numbers of a semantic label file, which are no colours."""
    path = record.pop("sem_seg_file_name", None)
    return None if path is None else detection_utils.read_image(path, "L").squeeze(2)
