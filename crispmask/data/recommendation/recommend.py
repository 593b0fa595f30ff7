"""All that is recommended for a data set on a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from crispmask.data.recommendation.anchors import recommend_anchors
from crispmask.data.recommendation.crowding import recommend_limits, recommend_sampler
from crispmask.data.recommendation.input_size import input_size
from crispmask.data.recommendation.lines import Line
from crispmask.data.recommendation.schedule import recommend_schedule
from crispmask.data.recommendation.statistics import collect


@dataclass(frozen=True)
class Recommendation:
    """Config values with their reasons, and what no config value can do, a sentence each."""

    lines: list[Line]
    advice: list[str]


def recommend(content: Mapping[str, Any], cfg: CfgNode, gpus: int) -> Recommendation:
    """Recommend config values for a training set.

    Args:
        content: a COCO-format file as ``check_annotation_file`` leaves it.
        cfg: the recipe whose values are adapted.
        gpus: how many there are; 0: the CPU.
    """
    found = collect(content)
    advice = []
    if found.num_with_objects and not len(found.boxes):
        advice.append("the file says no size of its images: --images adds input size and anchors")
    size = input_size(found, cfg)
    limits, of_limits = recommend_limits(found, cfg)
    sampler, of_classes = recommend_sampler(found, cfg)
    lines = [
        *size.lines,
        *_mask_format(found.has_run_lengths, cfg),
        *recommend_anchors(found, cfg, size.shortest, size.longest),
        *recommend_schedule(found, cfg, gpus, size.shortest * size.longest),
        *limits,
        *sampler,
    ]
    return Recommendation(lines, [*advice, *size.advice, *of_limits, *of_classes])


def _mask_format(has_run_lengths: bool, cfg: CfgNode) -> list[Line]:
    if not has_run_lengths or cfg.INPUT.MASK_FORMAT == "bitmask":
        return []
    return [Line("INPUT.MASK_FORMAT", "bitmask", "some masks are run lengths, which polygons cannot hold")]
