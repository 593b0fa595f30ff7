"""What many objects in an image and rare classes ask of a config."""

from __future__ import annotations

import math

import numpy as np
from detectron2.config import CfgNode

from crispmask.data.recommendation.lines import Line
from crispmask.data.recommendation.statistics import Statistics

# Proposals for each object of the fullest image
PROPOSALS_PER_OBJECT = 4
# Objects of the most frequent class for one of the rarest, from which images of rare classes are repeated
IMBALANCED = 20
# Objects from which something can be learnt
FEW_OBJECTS = 10
COCO_MAX_DETS = 100


def recommend_limits(found: Statistics, cfg: CfgNode) -> tuple[list[Line], list[str]]:
    """Recommend limits of detections and proposals where images hold more objects than the config's."""
    if not len(found.objects_per_image):
        return [], []
    most = int(found.objects_per_image.max())
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    if limit < 0 or most <= limit:
        return [], []
    raised = 50 * math.ceil(1.2 * most / 50)
    reason = f"the fullest image has {most} objects, the recipe keeps {limit} detections"
    lines = [Line("TEST.DETECTIONS_PER_IMAGE", raised, reason)]
    wanted = 500 * math.ceil(PROPOSALS_PER_OBJECT * most / 500)
    reason = f"{PROPOSALS_PER_OBJECT} proposals or more for each object of the fullest image"
    for key in ("PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TEST", "PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN"):
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and cfg.MODEL.RPN[key] < wanted:
            lines.append(Line(f"MODEL.RPN.{key}", wanted, reason))
    advice = []
    if most > COCO_MAX_DETS:
        advice.append(
            f"COCO's AP counts {COCO_MAX_DETS} detections of an image and class; all count with crispmask "
            f"evaluate --max-dets {raised}"
        )
    return lines, advice


def recommend_sampler(found: Statistics, cfg: CfgNode) -> tuple[list[Line], list[str]]:
    """Recommend a sampler that repeats images of rare classes where classes differ much."""
    counts = {name: count for name, count in found.objects_per_class.items() if count}
    advice = []
    if empty := [name for name, count in found.objects_per_class.items() if not count]:
        advice.append(f"{len(empty)} classes have no object, '{empty[0]}' for one: nothing is learnt of them")
    if few := [name for name, count in counts.items() if count < FEW_OBJECTS]:
        advice.append(
            f"{len(few)} classes have fewer than {FEW_OBJECTS} objects, '{few[0]}' for one: little is learnt "
            "of them"
        )
    if len(counts) < 2 or max(counts.values()) < IMBALANCED * min(counts.values()):
        return [], advice
    # A class below it is repeated by the root of what it lacks
    shares = [found.images_per_class[name] / found.num_with_objects for name in counts]
    threshold = float(f"{np.median(shares):.1g}")
    rarest = min(counts, key=lambda name: counts[name])
    common = max(counts, key=lambda name: counts[name])
    reason = (
        f"'{common}' has {counts[common]} objects, '{rarest}' {counts[rarest]}: images of classes rarer than "
        "the middle one are repeated, by LVIS's rule"
    )
    lines = [
        Line("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", reason),
        Line("DATALOADER.REPEAT_THRESHOLD", threshold, reason),
    ]
    return lines, advice
