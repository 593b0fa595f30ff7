"""Run the mask branch of the released Mask Transfiner code on a CPU; started by bench_heads.py.

    python benchmarks/released_code.py FOLDER INPUTS REPEAT

FOLDER is a checkout of github.com/SysCV/transfiner, a fork of Detectron2, which takes the place of the
installed one in this process. INPUTS is a file of torch.save: "weights" by released names without
"roi_heads.", "features", "boxes", "image_size". Prints a line of JSON: tokens, seconds and peak bytes.
"""

import importlib.abc
import importlib.machinery
import json
import sys
from typing import Any
from unittest.mock import MagicMock

import PIL.Image
import torch
from timing import cpu_cost

# Imported by the fork, used in training, in rotated boxes and in its demo
UNUSED = ("pytorch_toolbelt", "kornia", "skimage", "detectron2._C")


class Placeholder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for every name of ``UNUSED``."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        unused = any(f"{name}.".startswith(f"{module}.") for module in UNUSED)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if unused else None

    def create_module(self, spec: Any) -> Any:
        return MagicMock(__spec__=spec, __path__=[], __name__=spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def main(folder: str, inputs: str, repeat: str) -> None:
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, Placeholder())
    PIL.Image.LINEAR = PIL.Image.BILINEAR
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.roi_heads import build_roi_heads
    from detectron2.structures import Boxes, Instances

    data = torch.load(inputs)
    cfg = get_cfg()
    cfg.merge_from_file(f"{folder}/configs/transfiner/mask_rcnn_R_50_FPN_1x.yaml")
    shapes = {f"p{level}": ShapeSpec(channels=256, stride=1 << level) for level in (2, 3, 4, 5)}
    heads = build_roi_heads(cfg, shapes).eval()
    result = heads.load_state_dict(data["weights"], strict=False)
    assert not result.unexpected_keys and not [key for key in result.missing_keys if key.startswith("mask")]
    tokens: list[int] = []
    hook = heads.mask_head.encoder.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[2]))

    @torch.no_grad()
    def run() -> torch.Tensor:
        boxes = data["boxes"].clone()
        classes = torch.zeros(len(boxes), dtype=torch.int64)
        found = Instances(data["image_size"], pred_boxes=Boxes(boxes), pred_classes=classes)
        (result,) = heads.forward_with_given_boxes(dict(data["features"]), [found])
        return result.pred_masks

    torch.save(run(), f"{inputs}.masks")
    hook.remove()
    print(json.dumps([sum(tokens), *cpu_cost(run, int(repeat))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
