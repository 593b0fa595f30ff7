"""What Mask Transfiner did in an image: quadtrees, and the attention of chosen nodes (Figure 6 of the paper).

The steps of inference are taken once more, RoI by RoI; inference depends on nothing here.
Results are on the CPU, in pixels of the output image: that of the model's instances, after post-processing.

Shapes: N nodes of one instance, K tokens of one sequence, D layers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from crispmask.ops import Nodes

from .encoder import SequenceEncoder, attention_of
from .mask_head import TransfinerMaskHead
from .nodes import pack, read_cells
from .pyramid import Maps, RoIs
from .quadtree import Quadtree
from .refiner import Refiner
from .selection import best_of_each_image


@dataclass(frozen=True)
class QuadtreeView:
    """The quadtree of one instance: every cell that was found incoherent, by level, then row by row.

    Attributes:
        boxes: (N, 4) float32 x1, y1, x2, y2 of the cells; they may reach beyond the image.
        levels: (N,) int64, 0 for the roots.
        parents: (N,) int64 position of the parent in this list, -1 for the roots.
        scores: (N,) float32 probability of incoherence.
        refined: (N,) bool; False where ``MAX_NODES`` or ``SKIP_LEVELS`` left a node out.
    """

    boxes: Tensor
    levels: Tensor
    parents: Tensor
    scores: Tensor
    refined: Tensor

    def __len__(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class AttentionView:
    """Where one node looked: the tokens of its sequence, its own included.

    Attributes:
        node: position of the node in the ``QuadtreeView`` of its instance.
        points: (K, 2) float32 x, y of the centres of the tokens' cells.
        levels: (K,) int64 level of the token, -1 for the cells of the reference grid.
        weights: (D, K) float32 attention weights of every layer, the mean over its heads; a row adds up to 1.
    """

    node: int
    points: Tensor
    levels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class InstanceView:
    """One instance: its quadtree, without nodes where it was not refined, and what chosen nodes looked at."""

    quadtree: QuadtreeView
    attention: list[AttentionView]


@dataclass(frozen=True)
class ImageView:
    """One image: what the model returns for it, and a view for each of its instances, in their order."""

    instances: Instances
    views: list[InstanceView]


Choose = Callable[[QuadtreeView], Sequence[int]]


@torch.no_grad()
def inspect_quadtrees(
    model: nn.Module,
    inputs: list[dict[str, object]],
    choose: Choose | None = None,
    among: Callable[[Instances], Sequence[int]] | None = None,
) -> list[ImageView]:
    """Run a model on a batch and look into its mask head.

    Args:
        model: built from a Mask Transfiner config, in evaluation mode.
        inputs: Detectron2's batch: dicts with ``image`` and, for another output size, ``height``, ``width``.
        choose: is asked with the quadtree of every instance which of its refined nodes to follow, by their
            positions; none without it.
        among: is asked with the instances of every image which of them to look into, by their positions; the
            others have a view without nodes. All without it.

    Returns:
        One view an image.

    Raises:
        ValueError: another model, one in training mode, a chosen node that was not refined, or nodes to
            follow in a model without attention.
    """
    head = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    if not isinstance(head, TransfinerMaskHead):
        raise ValueError("The model has no TransfinerMaskHead; build it from a config of configs/transfiner.")
    if model.training:
        raise ValueError("The model is in training mode; call model.eval() before looking into it.")
    results, features, detections = _run(model, head, inputs)
    classes = torch.cat([per_image.pred_classes for per_image in detections])
    maps, rois = head.coarse_masks(features, [per_image.pred_boxes for per_image in detections], classes)
    chosen = best_of_each_image(detections, head.top_k, classes.device)
    refined = set(chosen.tolist() if head.pyramid.sizes else [])
    images, start = [], 0
    for result, per_image in zip(results, detections, strict=True):
        height, width = (
            there / here for there, here in zip(result.image_size, per_image.image_size, strict=True)
        )
        kept = (start + result.number).tolist()
        result.remove("number")
        result = result.to("cpu")
        views = [_nothing()] * len(kept)
        for index in range(len(kept)) if among is None else among(result):
            one = rois[kept[index] : kept[index] + 1]
            # Scaling is in place
            box = Boxes(one.boxes[:, 1:].cpu()).clone()
            box.scale(width, height)
            if kept[index] in refined:
                views[index] = _view(head.quadtree, maps, one, box.tensor[0], choose)
        images.append(ImageView(result, views))
        start += len(per_image)
    return images


def _run(
    model: nn.Module, head: TransfinerMaskHead, inputs: list[dict[str, object]]
) -> tuple[list[Instances], dict[str, Tensor], list[Instances]]:
    """Results with a field ``number``, and what the head was called with: FPN maps and detections."""
    calls: list[tuple[dict[str, Tensor], list[Instances]]] = []
    handle = head.register_forward_pre_hook(lambda _, args: calls.append((args[0], _numbered(args[1]))))
    try:
        results = [result["instances"] for result in model(inputs)]
    finally:
        handle.remove()
    ((features, detections),) = calls
    return results, features, detections


def _numbered(instances: list[Instances]) -> list[Instances]:
    """Number the detections, so that those that post-processing keeps are known; return copies of them."""
    for per_image in instances:
        per_image.number = torch.arange(len(per_image), device=per_image.pred_boxes.device)
    # Post-processing scales the boxes in place
    return [
        Instances(x.image_size, **{**x.get_fields(), "pred_boxes": x.pred_boxes.clone()}) for x in instances
    ]


def _nothing() -> InstanceView:
    none = torch.zeros(0, dtype=torch.int64)
    return InstanceView(QuadtreeView(torch.zeros(0, 4), none, none, torch.zeros(0), none.bool()), [])


def _view(tree: Quadtree, maps: Maps, roi: RoIs, box: Tensor, choose: Choose | None) -> InstanceView:
    """The view of one RoI, whose box in the output image is ``box`` (4,)."""
    cells, refined, counts = tree.grow(maps, roi)
    nodes, index, _ = pack(cells, cells.incoherent, 1, tree.sizes)
    places = _find(nodes, refined, tree.sizes)
    corners, sides = _cells(box, nodes.level, nodes.y, nodes.x, tree.sizes)
    quadtree = QuadtreeView(
        boxes=torch.cat([corners, corners + sides], dim=1),
        levels=nodes.level.cpu(),
        parents=nodes.parent.cpu(),
        scores=cells.scores[index].cpu(),
        refined=(places >= 0).cpu(),
    )
    chosen = [] if choose is None else list(choose(quadtree))
    if not all(quadtree.refined[node] for node in chosen):
        raise ValueError(f"Nodes {chosen} are to be followed; choose among those that are refined.")
    if not chosen:
        return InstanceView(quadtree, [])
    attention = _follow(tree.refiner, maps, roi, box, (refined, counts), chosen, places[chosen])
    return InstanceView(quadtree, attention)


def _find(nodes: Nodes, some: Nodes, sizes: Sequence[int]) -> Tensor:
    """(N,) position of the nodes of one RoI among ``some`` of them, -1 for the others."""
    maps = [nodes.roi.new_full((1, size, size), -1) for size in sizes]
    for level, places in enumerate(maps):
        here = (some.level == level).nonzero().squeeze(1)
        places[0, some.y[here], some.x[here]] = here
    return read_cells(maps, nodes)


def _cells(box: Tensor, level: Tensor, y: Tensor, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(N, 2) upper left corners x, y and (N, 2) sides of cells in a box (4,)."""
    counts = torch.tensor(sizes)[level.cpu()][:, None]
    sides = (box[2:] - box[:2]) / counts
    return box[:2] + torch.stack([x, y], dim=1).cpu() * sides, sides


def _follow(
    refiner: Refiner,
    maps: Maps,
    roi: RoIs,
    box: Tensor,
    refined: tuple[Nodes, Tensor],
    chosen: list[int],
    index: Tensor,
) -> list[AttentionView]:
    """The views of chosen nodes; ``index`` is their place among the refined ones."""
    if not isinstance(refiner.body, SequenceEncoder):
        raise ValueError("This model has no attention to follow; MODEL.TRANSFINER.REFINER is no transformer.")
    seen: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args: seen.append(attention_of(layer).project(*args[:2])[:, :2])
        )
        for layer in refiner.body.layers
    ]
    try:
        refiner(maps, roi, *refined)
    finally:
        for handle in handles:
            handle.remove()
    sequences, order, owners = refiner.layout(*refined)
    places = order.argsort()[len(order) - len(refined[0].roi) + index].tolist()
    ends = [bisect_right(sequences.host_offsets, place) for place in places]
    ranges = [slice(*sequences.host_offsets[end - 1 : end + 1]) for end in ends]
    grid, row, column = refiner.places(refined[0], len(owners))[:, order]
    corners, sides = _cells(box, grid, row, column, [refiner.pyramid.size, *refiner.pyramid.sizes])
    points, levels = corners + sides / 2, grid.cpu() - 1
    views = []
    for node, place, tokens in zip(chosen, places, ranges, strict=True):
        weights = [
            _weights(queries_and_keys[place, 0], queries_and_keys[tokens, 1], attention_of(layer).num_heads)
            for queries_and_keys, layer in zip(seen, refiner.body.layers, strict=True)
        ]
        views.append(AttentionView(node, points[tokens], levels[tokens], torch.stack(weights).cpu()))
    return views


def _weights(query: Tensor, keys: Tensor, num_heads: int) -> Tensor:
    """(K,) attention weights of one query (C,) over keys (K, C), the mean over heads."""
    query, keys = (x.float().unflatten(-1, (num_heads, -1)) for x in (query, keys))
    logits = torch.einsum("hc,khc->hk", query, keys) / math.sqrt(query.shape[1])
    return logits.softmax(dim=1).mean(dim=0)
