"""Rows of a results file as the outputs of a model, for evaluators inside Detectron2."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import multiprocessing


def outputs(results, image_ids, size, threshold=-1.0, contiguous=None):
    """One dict an image, as ``(input, output)``; ``contiguous``: category id -> class, by default id - 1."""
    for image_id in image_ids:
        rows = [r for r in results if r["image_id"] == image_id and r["score"] > threshold]
        masks = np.array([mask_utils.decode(r["segmentation"]) for r in rows], bool).reshape(-1, *size)
        boxes = np.array([mask_utils.toBbox(r["segmentation"]) for r in rows], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = [r["category_id"] - 1 if contiguous is None else contiguous[r["category_id"]] for r in rows]
        instances = Instances(
            size,
            pred_boxes=Boxes(torch.from_numpy(boxes)),
            pred_masks=torch.from_numpy(masks),
            scores=torch.tensor([r["score"] for r in rows]),
            pred_classes=torch.tensor(classes, dtype=torch.long),
        )
        yield {"image_id": image_id, "height": size[0], "width": size[1]}, {"instances": instances}


def run(evaluator, results, shape, image_ids=None, **options):
    """Results of an evaluator on rows for images of a generated ``shape``, all of them or those named."""
    evaluator.reset()
    image_ids = range(1, shape.images + 1) if image_ids is None else image_ids
    for image, output in outputs(results, image_ids, (shape.height, shape.width), **options):
        evaluator.process([image], [output])
    return evaluator.evaluate()


def run_in_two_processes(make_evaluator, results, shape, shares, folder):
    """Results of both processes for each case of ``shares``: the images of the first and of the second.

    Args:
        make_evaluator: function of the rank that can be pickled.
        folder: an empty one, for files.
    """
    options = (make_evaluator, results, shape, shares, folder)
    multiprocessing.spawn(_rank, options, nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def _rank(rank, make_evaluator, results, shape, shares, folder):
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    evaluator = make_evaluator(rank)
    figures = {case: run(evaluator, results, shape, images[rank]) for case, images in shares.items()}
    (folder / f"{rank}.json").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


def as_float32(results):
    """The rows with the scores that a model can give."""
    return [{**r, "score": float(torch.tensor(r["score"]))} for r in results]


def same(figures):
    return pytest.approx(figures, rel=0, abs=0, nan_ok=True)


def same_tasks(results):
    return {task: same(figures) for task, figures in results.items()}
