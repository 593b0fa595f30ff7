"""Training targets of Mask Transfiner, made from ground truth.

Shapes: B images, R RoIs, G ground-truth objects of an image, H and W height and width, S side of a RoI grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import cat
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from crispmask.modeling.groundtruth import crop_masks, full_masks, unite_masks
from crispmask.ops import boundary_band, incoherence, incoherence_residual

from .nodes import enlarge

# Share of a cell that must have lost detail for the released code to call it incoherent
RESIDUE_THRESHOLD = 0.05


def with_object_index(targets: list[Instances]) -> list[Instances]:
    """The ground truth of B images with a field ``gt_index``, which Detectron2 copies to proposals.

    With it, what belongs to an object is made once and not once a proposal.
    """
    return [
        Instances(
            per_image.image_size,
            **per_image.get_fields(),
            gt_index=torch.arange(len(per_image), device=per_image.gt_classes.device),
        )
        for per_image in targets
    ]


def incoherent_cells(
    instances: list[Instances], sizes: Sequence[int], target: str, device: torch.device
) -> list[Tensor]:
    """The cells that a detector should find.

    Args:
        instances: B elements with ``proposal_boxes`` (image pixels) and ``gt_masks``.
        sizes: S of each level.
        target: ``"incoherence"`` (Eq. 1), ``"residue"`` or ``"signed_residue"`` (released code), or
            ``"boundary"`` (Table 2).
        device: where the result is put.

    Returns:
        (R, S, S) bool of each level; of the first one alone for residues.
    """
    if target == "boundary":
        return boundary_regions([crop_masks(instances, size, device) for size in sizes])
    if target == "incoherence":
        return incoherence(crop_masks(instances, 2 * sizes[-1], device), len(sizes))
    return [residue_target(instances, sizes[0], target == "signed_residue", device)]


def residue_target(instances: list[Instances], size: int, signed: bool, device: torch.device) -> Tensor:
    """Incoherent cells as the released code defines them: where halving the image's mask loses detail.

    Args:
        instances: B elements with ``proposal_boxes`` (image pixels) and ``gt_masks``; ``gt_index`` is used
            where it is there.
        size: S.
        signed: keep the sign of the residue, as the code did before August 2022.
        device: where the result is put.

    Returns:
        (R, S, S) bool.
    """
    crops = [_residue_in_boxes(x, size, signed, device) for x in instances if len(x) > 0]
    return cat(crops) if crops else torch.zeros(0, size, size, dtype=torch.bool, device=device)


def semantic_target(instances: list[Instances], size: tuple[int, int], stride: int) -> Tensor:
    """Union of the objects of foreground proposals, on the grid of the finest FPN map.

    Args:
        instances: B elements with ``gt_masks``, which may be absent where there is no proposal.
        size: (H, W) of the map.
        stride: image pixels of a cell.

    Returns:
        (B, 1, H, W) bool, on the CPU for polygons.
    """
    canvas = (size[0] * stride, size[1] * stride)
    unions = [unite_masks(x).cpu() for x in instances]
    padded = [F.pad(u, (0, canvas[1] - u.shape[1], 0, canvas[0] - u.shape[0])) for u in unions]
    return F.interpolate(torch.stack(padded)[:, None].float(), size=size, mode="nearest").bool()


def boundary_target(masks: Tensor) -> Tensor:
    """Cells on either side of a mask's edge: dilation xor erosion by a 3 x 3 cross (released code).

    What lies outside the grid changes neither. (R, S, S) bool to (R, S, S) bool.
    """
    outside = F.pad(masks, (1, 1, 1, 1), value=False)
    inside = F.pad(masks, (1, 1, 1, 1), value=True)
    dilated, eroded = masks, masks
    for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
        window = slice(y, y + masks.shape[1]), slice(x, x + masks.shape[2])
        dilated = dilated | outside[:, window[0], window[1]]
        eroded = eroded & inside[:, window[0], window[1]]
    return dilated ^ eroded


def boundary_regions(masks: Sequence[Tensor]) -> list[Tensor]:
    """Cells at the boundary of a mask, level by level, children inside their parents (Table 2).

    Args:
        masks: (R, S, S) bool of each level, S doubling.
    """
    regions = [boundary_band(masks[0], 1)]
    for level in masks[1:]:
        regions.append(boundary_band(level, 1) & enlarge(regions[-1]))
    return regions


def _residue_in_boxes(instances: Instances, size: int, signed: bool, device: torch.device) -> Tensor:
    """(R, S, S) bool of one image."""
    first, objects = _objects(instances)
    masks = _halvable(full_masks(instances.gt_masks[first], *instances.image_size).to(device))
    residue = incoherence_residual(masks, signed=signed)
    # The maps have half the resolution of the image, and so have the boxes
    boxes = instances.proposal_boxes.tensor.to(device=device, dtype=torch.float32) / 2
    rois = torch.cat([objects.to(boxes)[:, None], boxes], dim=1)
    return roi_align(residue[:, None], rois, size, 1.0, 0, aligned=True)[:, 0] >= RESIDUE_THRESHOLD


def _halvable(masks: Tensor) -> Tensor:
    """(G, H, W) masks, a single row or column repeated: what cannot be halved has no detail to lose."""
    height, width = masks.shape[-2:]
    return masks.repeat(1, 2 if height == 1 else 1, 2 if width == 1 else 1)


def _objects(instances: Instances) -> tuple[Tensor, Tensor]:
    """Index of one proposal of every object, (G,), and the object of every proposal, (R,)."""
    if not instances.has("gt_index"):
        every = torch.arange(len(instances))
        return every, every
    _, objects = instances.gt_index.cpu().unique(return_inverse=True)
    first = torch.zeros(int(objects.max()) + 1, dtype=torch.int64)
    first[objects] = torch.arange(len(objects))
    return first, objects
