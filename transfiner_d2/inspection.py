"""What Mask Transfiner did in an image: quadtrees, and the attention of chosen nodes (Figure 6 of the paper).

Everything is computed once more from the model's own modules, RoI by RoI; inference depends on nothing here.
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

from .encoder import SequenceEncoder, TransformerLayer
from .mask_head import TransfinerMaskHead
from .nodes import pack, read_cells
from .pyramid import Coarse, Maps
from .quadtree import Quadtree
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
    maps = head.pyramid.maps(features, head.detail_convs)
    classes = torch.cat([per_image.pred_classes for per_image in detections])
    coarse = head.coarse_masks(maps, [per_image.pred_boxes for per_image in detections], classes)
    refined = set(best_of_each_image(detections, head.top_k, classes.device).tolist() if head.depth else [])
    images, start = [], 0
    for result, per_image in zip(results, detections, strict=True):
        height, width = (
            there / here for there, here in zip(result.image_size, per_image.image_size, strict=True)
        )
        rois = (start + result.number).tolist()
        result.remove("number")
        result = result.to("cpu")
        views = [_nothing()] * len(rois)
        for index in range(len(rois)) if among is None else among(result):
            some = coarse[rois[index] : rois[index] + 1]
            # Scaling is in place
            box = Boxes(some.rois.boxes[:, 1:].cpu()).clone()
            box.scale(width, height)
            if rois[index] in refined:
                views[index] = _view(head.quadtree, maps, some, box.tensor[0], choose)
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


def _view(tree: Quadtree, maps: Maps, coarse: Coarse, box: Tensor, choose: Choose | None) -> InstanceView:
    """The view of one RoI, whose box in the output image is ``box`` (4,)."""
    settings = tree.settings
    root_logits = None if tree.detector is None else tree.root_logits(maps, coarse)
    detection = tree.detect(maps, coarse.rois, root_logits, settings.thresholds)
    nodes, index, _ = pack(detection.cells, detection.incoherent, 1, tree.sizes)
    refined, counts = tree.nodes(detection, 1, settings.max_nodes)
    places = _find(nodes, refined, tree.sizes)
    corners, sides = _cells(box, nodes.level, nodes.y, nodes.x, tree.sizes)
    quadtree = QuadtreeView(
        boxes=torch.cat([corners, corners + sides], dim=1),
        levels=nodes.level.cpu(),
        parents=nodes.parent.cpu(),
        scores=detection.scores[index].cpu(),
        refined=(places >= 0).cpu(),
    )
    chosen = [] if choose is None else list(choose(quadtree))
    if not all(quadtree.refined[node] for node in chosen):
        raise ValueError(f"Nodes {chosen} are to be followed; choose among those that are refined.")
    if not chosen:
        return InstanceView(quadtree, [])
    return InstanceView(quadtree, _follow(tree, maps, coarse, box, (refined, counts), chosen, places[chosen]))


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
    tree: Quadtree,
    maps: Maps,
    coarse: Coarse,
    box: Tensor,
    refined: tuple[Nodes, Tensor],
    chosen: list[int],
    index: Tensor,
) -> list[AttentionView]:
    """The views of chosen nodes; ``index`` is their place among the refined ones."""
    body = tree.refiner.body
    if not isinstance(body, SequenceEncoder):
        raise ValueError("This model has no attention to follow; MODEL.TRANSFINER.REFINER is no transformer.")
    tokens = tree.reader.read(maps, coarse, *refined)
    x, position = tree.refiner.embed(tokens)
    places = tokens.order.argsort()[len(x) - len(tokens.features) + index].tolist()
    ends = [bisect_right(tokens.sequences.host_offsets, place) for place in places]
    sequences = [slice(*tokens.sequences.host_offsets[end - 1 : end + 1]) for end in ends]
    weights: list[list[Tensor]] = [[] for _ in chosen]
    for layer in body.layers:
        attention = layer.attention if isinstance(layer, TransformerLayer) else layer
        query, key, _ = attention.project(x, position).unbind(1)
        for found, place, sequence in zip(weights, places, sequences, strict=True):
            found.append(_weights(query[place], key[sequence], attention.num_heads).cpu())
        x = layer(x, position, tokens.sequences)
    grid, row, column = tokens.cells[:, tokens.order]
    corners, sides = _cells(box, grid, row, column, [tree.size, *tree.sizes])
    points, levels = corners + sides / 2, grid.cpu() - 1
    return [
        AttentionView(node, points[sequence], levels[sequence], torch.stack(found))
        for node, sequence, found in zip(chosen, sequences, weights, strict=True)
    ]


def _weights(query: Tensor, keys: Tensor, num_heads: int) -> Tensor:
    """(K,) attention weights of one query (C,) over keys (K, C), the mean over heads."""
    query, keys = (x.float().unflatten(-1, (num_heads, -1)) for x in (query, keys))
    logits = torch.einsum("hc,khc->hk", query, keys) / math.sqrt(query.shape[1])
    return logits.softmax(dim=1).mean(dim=0)
