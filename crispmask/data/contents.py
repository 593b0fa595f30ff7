"""What is wrong with the files of a data set that a run will read, found before its first iteration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)

from crispmask.data.coco import take_over
from crispmask.data.datasets import read_dataset
from crispmask.data.image_files import check_image_files
from crispmask.data.learnable import objects_without_masks, why_nothing_is_learnt
from crispmask.evaluation.progress import Progress
from crispmask.text import counted

Images = Sequence[Mapping[str, Any]]
logger = logging.getLogger(__name__)


def check_contents(
    name: str, *, training: bool, masks: bool, headers: bool = True, skip_unreadable: bool = False
) -> list[str]:
    """Read the annotations of a registered data set, and the headers of its images.

    Args:
        name: the data set.
        training: there must be something to learn from.
        masks: the model has masks.
        headers: look at the images.
        skip_unreadable: images that are no images, or not there, are no error.

    Returns:
        Notes: what is left out or mended.

    Raises:
        ValueError: a sentence that names the file, the annotation or the image, and the way out.
    """
    images = read_dataset(name)
    if images is None:
        return []
    notes = [f"Data set '{name}': {note}." for note in images.notes]
    require_objects(name, images.dicts, training=training, masks=masks)
    if headers:
        faults = check_image_files(images.dicts, name, Progress())
        if errors := faults.sentences(f"data set '{name}'", unreadable=not skip_unreadable):
            raise ValueError(errors[0])
        if skipped := (*faults.missing, *faults.unreadable):
            if len(skipped) == faults.total:
                raise ValueError(faults.sentences(f"data set '{name}'")[0])
            notes.append(
                f"Data set '{name}': {len(skipped)} of {faults.total} images cannot be read and are skipped, "
                f"'{skipped[0]}' for one."
            )
    return notes


def require_objects(name: str, dicts: Images, *, training: bool, masks: bool) -> None:
    """Refuse a data set that a model cannot learn from or be evaluated on.

    Raises:
        ValueError: there are no images or no objects to learn, or none has a mask although the model has.
    """
    if not dicts:
        raise ValueError(f"Data set '{name}' has no images: give one that has, or leave it out.")
    annotations = [a for image in dicts for a in image["annotations"]]
    if training and (reason := why_nothing_is_learnt(annotations)):
        raise ValueError(f"Data set '{name}' has nothing to train on: {reason}; give one with objects.")
    if masks and (count := objects_without_masks(annotations)):
        raise ValueError(
            f"None of the {count} objects of data set '{name}' has a mask: give annotations with "
            "masks, or MODEL.MASK_ON False for a model of boxes."
        )


def load_training_images(cfg: CfgNode) -> list[dict[str, Any]]:
    """Detectron2's dicts of ``DATASETS.TRAIN``, with the objects that the model can learn from.

    Raises:
        ValueError: a file cannot be used, or there is nothing to learn from.
    """
    for name in cfg.DATASETS.TRAIN:
        take_over(name)
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=False,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    if cfg.MODEL.KEYPOINT_ON:
        head = cfg.MODEL.ROI_KEYPOINT_HEAD
        dicts = with_keypoints(dicts, head.NUM_KEYPOINTS)
        dicts = filter_images_with_few_keypoints(dicts, head.MIN_KEYPOINTS_PER_IMAGE)
    dicts = trained_images(dicts, masks=cfg.MODEL.MASK_ON, filter_empty=filter_empty)
    if not dicts:
        raise ValueError(f"No image of {', '.join(cfg.DATASETS.TRAIN)} has an object to train on.")
    return dicts


def trained_images(dicts: Images, *, masks: bool, filter_empty: bool) -> list[dict[str, Any]]:
    """Images with the objects that a model can learn from.

    Args:
        dicts: Detectron2's dicts.
        masks: the model has masks, so objects without one are left out, which is logged.
        filter_empty: leave out images without an object that is no crowd region.

    Returns:
        Dicts of their own; what they hold is shared.
    """
    images = [dict(image) for image in dicts]
    if masks:
        left_out = 0
        for image in images:
            kept = [a for a in image.get("annotations", ()) if a.get("segmentation") is not None]
            left_out += len(image.get("annotations", ())) - len(kept)
            if "annotations" in image:
                image["annotations"] = kept
        if left_out:
            logger.warning("%d objects without a mask are left out of the training.", left_out)
    if not filter_empty or not any("annotations" in image for image in images[:1]):
        return images
    kept = filter_images_with_only_crowd_annotations(images)
    if empty := len(images) - len(kept):
        logger.info(
            "%s without objects left out of the training (DATALOADER.FILTER_EMPTY_ANNOTATIONS).",
            counted(empty, "image"),
        )
    return kept


def with_keypoints(dicts: Images, number: int) -> list[dict[str, Any]]:
    """Images whose objects have the same number of keypoints, as Detectron2 needs them.

    Those of an object without any are not visible, which COCO writes as zeros.

    Raises:
        ValueError: an object has another number of them.
    """
    return [
        {**image, "annotations": [_with_keypoints(a, number, image) for a in image.get("annotations", ())]}
        for image in dicts
    ]


def _with_keypoints(annotation: Mapping[str, Any], number: int, image: Mapping[str, Any]) -> dict[str, Any]:
    points = annotation.get("keypoints") or [0] * (3 * number)
    if len(points) != 3 * number:
        raise ValueError(
            f"An object of '{image['file_name']}' has {len(points) // 3} keypoints, but "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number}: correct one of the two."
        )
    return {**annotation, "keypoints": points}
