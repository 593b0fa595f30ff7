"""Generated sets in LVIS's form, and its evaluation written down plainly: full images, no shortcuts."""

import copy

import numpy as np
import pycocotools.mask as mask_utils
import torch
from pycocotools.cocoeval import COCOeval

from crispmask.evaluation import boundary_iou
from crispmask.testing import Shape, make_set

SHAPE = Shape(images=6, height=96, width=128, objects=5, detections=20, categories=6, found=0.7)


def make_lvis(shape=SHAPE, seed=0, is_odd=True):
    """A set of ``make_set`` without crowd regions, with the lists and frequencies of an LVIS file.

    ``is_odd``: some scores are equal, some masks empty, and some objects of exactly 32 x 32 pixels.
    """
    gt, results = make_set(shape, seed)
    rng = np.random.default_rng(seed)
    ids = np.arange(1, shape.categories + 1)
    for category in gt["categories"]:
        category |= {"frequency": "rcf"[category["id"] % 3], "synset": f"thing.n.{category['id']:02}"}
    for annotation in gt["annotations"]:
        del annotation["iscrowd"]
        if is_odd and rng.random() < 0.1:
            annotation["area"] = float(rng.choice([0, 32**2]))
    for image in gt["images"]:
        there = {a["category_id"] for a in gt["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [int(i) for i in ids if i not in there and rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = [int(i) for i in ids if i in there and rng.random() < 0.3]
    empty = mask_utils.encode(np.zeros((shape.height, shape.width), np.uint8, order="F"))
    for row in results if is_odd else ():
        row["score"] = round(row["score"], 1)
        if rng.random() < 0.05:
            row["segmentation"] = {"size": empty["size"], "counts": empty["counts"].decode()}
    return gt, results


def plain_lvis(gt, results, boundary=False, max_dets=300, limited_by="image_id"):
    """(T, R, K, A) precision by LVIS's rules."""
    gt, results = copy.deepcopy(gt), copy.deepcopy(results)
    sizes = {im["id"]: (im["height"], im["width"]) for im in gt["images"]}
    truths = [a for a in gt["annotations"] if a["area"] > 0]
    for a in truths:
        a["iscrowd"] = a["ignore"] = 0
        if isinstance(a["segmentation"], list):
            a["segmentation"] = mask_utils.merge(
                mask_utils.frPyObjects(a["segmentation"], *sizes[a["image_id"]])
            )
    for number, row in enumerate(results, 1):
        row |= {"id": number, "area": int(mask_utils.area(row["segmentation"]))}
    counted = []
    for key in {r[limited_by] for r in results}:
        counted += sorted((r for r in results if r[limited_by] == key), key=lambda r: -r["score"])[:max_dets]
    known = {(a["image_id"], a["category_id"]) for a in truths}
    known |= {(im["id"], category_id) for im in gt["images"] for category_id in im["neg_category_ids"]}
    counted = [r for r in counted if r["area"] > 0 and (r["image_id"], r["category_id"]) in known]
    evaluation = PlainLVISEval(gt, truths, counted, boundary)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., 0]


class PlainLVISEval(COCOeval):
    """pycocotools' loops over chosen rows, surplus detections being forgiven where LVIS forgives them."""

    def __init__(self, gt, truths, counted, boundary):
        super().__init__(iouType="segm")
        self.params.imgIds = [im["id"] for im in gt["images"]]
        self.params.catIds = [c["id"] for c in gt["categories"]]
        self.forgiving = {im["id"]: im["not_exhaustive_category_ids"] for im in gt["images"]}
        self.truths, self.counted, self.boundary = truths, counted, boundary

    def _prepare(self):
        for image_id in self.params.imgIds:
            for category_id in self.params.catIds:
                key = image_id, category_id
                self._gts[key] = [a for a in self.truths if (a["image_id"], a["category_id"]) == key]
                self._dts[key] = [r for r in self.counted if (r["image_id"], r["category_id"]) == key]

    def computeIoU(self, imgId, catId):
        ious = np.array(super().computeIoU(imgId, catId))
        if self.boundary and ious.size:
            dts = sorted(self._dts[imgId, catId], key=lambda r: -r["score"])
            for d, g in np.ndindex(*ious.shape):
                pair = dts[d], self._gts[imgId, catId][g]
                masks = [torch.from_numpy(mask_utils.decode(row["segmentation"])) for row in pair]
                ious[d, g] = min(ious[d, g], boundary_iou(*masks))
        return ious

    def evaluateImg(self, imgId, catId, aRng, maxDet):
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        if result is not None and catId in self.forgiving[imgId]:
            result["dtIgnore"] = result["dtIgnore"] | (result["dtMatches"] == 0)
        return result


# LVIS v1's ids of three of COCO's categories and of one that COCO has not; synsets as in LVIS
REAL_CATEGORIES = {
    1: {"synset": "aerosol.n.02", "name": "aerosol_can", "frequency": "c"},
    793: {"synset": "person.n.01", "name": "person", "frequency": "f"},
    90: {"synset": "bench.n.01", "name": "bench", "frequency": "f"},
    378: {"synset": "dog.n.01", "name": "dog", "frequency": "f"},
}


def real_lvis(seed=0, images=4):
    """A set in the form of LVIS v1 val, every other image one of train2017, and its results."""
    shape = Shape(images, 64, 80, objects=5, detections=12, categories=4, found=0.9)
    gt, results = make_lvis(shape, seed, is_odd=False)
    gt["annotations"] = [a for a in gt["annotations"] if isinstance(a["segmentation"], list)]
    ids = dict(enumerate(REAL_CATEGORIES, 1))
    for row in [*gt["annotations"], *results]:
        row["category_id"] = ids[row["category_id"]]
    for image in gt["images"]:
        folder = "val2017" if image["id"] % 2 else "train2017"
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image['id']:012}.jpg"
        del image["file_name"]
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [ids[i] for i in image[key]]
    gt["categories"] = [{"id": i, **category} for i, category in REAL_CATEGORIES.items()]
    return gt, results
