"""The quadtree of a RoI: detect its nodes, refine them together, carry the result to the finest level.

Shapes: R RoIs, N nodes of all RoIs, L levels of the quadtree, S side of a RoI grid in cells; P side of the
pooled RoI features (14), so 2 P is that of the coarse mask and of the roots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.modeling.groundtruth import crop_masks
from crispmask.ops import Nodes, propagate, scatter_nodes

from .config import refines_whole_grids
from .incoherence import AllCells, CascadeDetector, SingleDetector
from .losses import dice_loss, mask_loss, refine_loss
from .memory import MemoryBudget
from .nodes import Cells, NodeSampler, limit_nodes, pack, read_cells, resize
from .pyramid import Maps, RoIPyramid, RoIs
from .refiner import Refiner
from .selection import images_by_turns, select_rois
from .targets import incoherent_cells


class Quadtree(nn.Module):
    """Incoherence detector and refinement network around the quadtree (sections 3.2 and 3.3)."""

    @configurable
    def __init__(
        self,
        *,
        detector: AllCells | SingleDetector | CascadeDetector,
        refiner: Refiner,
        memory: MemoryBudget,
        sizes: Sequence[int],
        skip_levels: Sequence[int],
        max_nodes: int,
        propagation: str,
        target: str,
        train_rois: int,
        sampler: NodeSampler,
        train_references: bool,
        dice: bool,
        incoherence_weight: float,
        refine_weight: float,
    ) -> None:
        """
        Args:
            detector: finds the cells that may become nodes.
            refiner: from what is known of nodes to their mask logits.
            memory: what inference does at once.
            sizes: S of each level.
            skip_levels: levels, counted from 0, that are detected but not refined.
            max_nodes: of a RoI at inference; 0: all.
            propagation: ``"nearest"``, ``"bilinear"`` or ``"none"``.
            target: what the detector learns, as for :func:`incoherent_cells`.
            train_rois: of a batch that are refined in training; 0: all.
            sampler: which of their nodes.
            train_references: references are trained like nodes.
            dice: the detector learns from the dice loss, too.
            incoherence_weight, refine_weight: of the losses.
        """
        super().__init__()
        self.detector = detector
        self.refiner = refiner
        self.memory = memory
        self.sizes = list(sizes)
        self.skip_levels = tuple(skip_levels)
        self.max_nodes = max_nodes
        self.propagation = propagation
        self.target = target
        self.train_rois = train_rois
        self.sampler = sampler
        self.train_references = train_references
        self.dice = dice
        self.incoherence_weight = incoherence_weight
        self.refine_weight = refine_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, *, pyramid: RoIPyramid, channels: int) -> dict[str, Any]:
        """From ``MODEL.TRANSFINER``; C ``channels`` of the FPN maps."""
        node, sizes = cfg.MODEL.TRANSFINER, pyramid.sizes
        memory = MemoryBudget.from_config(cfg, channels)
        # Whole grids stay whole: of the last level, every cell
        whole = refines_whole_grids(cfg)
        skipped = range(node.DEPTH - 1) if whole else [level - 1 for level in node.SKIP_LEVELS]
        detector: AllCells | SingleDetector | CascadeDetector
        if whole or node.REGION == "full":
            detector = AllCells(sizes=sizes)
        elif node.DETECTOR == "single":
            detector = SingleDetector(cfg, channels=channels)
        else:
            detector = CascadeDetector(cfg, pyramid=pyramid, memory=memory, channels=channels)
        return {
            "detector": detector,
            "refiner": Refiner(cfg, pyramid=pyramid, channels=channels),
            "memory": memory,
            "sizes": sizes,
            "skip_levels": skipped,
            "max_nodes": 0 if whole else node.MAX_NODES,
            "propagation": node.PROPAGATION,
            "target": "boundary" if node.REGION == "boundary" else node.TARGET,
            "train_rois": node.TRAIN_ROIS,
            "sampler": NodeSampler(
                levels=[level for level in range(node.DEPTH) if level not in skipped],
                per_level=0 if whole else node.TRAIN_NODES,
                at_least=0 if whole else node.MIN_TRAIN_NODES,
                repeat=node.REPEAT_NODES,
            ),
            "train_references": node.TRAIN_REFERENCES,
            "dice": node.INCOHERENCE_LOSS == "bce_dice",
            "incoherence_weight": node.INCOHERENCE_LOSS_WEIGHT,
            "refine_weight": node.REFINE_LOSS_WEIGHT,
        }

    def forward(self, maps: Maps, rois: RoIs) -> Tensor:
        """Refined masks of R RoIs. Two host synchronisations for each part that the memory budget asks for.

        Args:
            maps: FPN maps.
            rois: R RoIs.

        Returns:
            (R, S, S) float32 probabilities, S of the last level.
        """
        parts = self.memory.parts_of_rois(rois)
        refined = []
        for part in parts:
            _, nodes, counts = self.grow(maps, part)
            refined.append((nodes, self.refine(maps, part, nodes, counts)))
        # The released code interpolates from the last level on which an image has nodes
        finest = _finest_levels(parts, refined, len(maps.raw[0])) if self.propagation == "bilinear" else None
        masks = [self.propagate(part, *nodes, finest) for part, nodes in zip(parts, refined, strict=True)]
        return torch.cat([rois.logits.new_zeros(0, self.sizes[-1], self.sizes[-1]), *masks])

    def losses(self, maps: Maps, rois: RoIs, instances: list[Instances]) -> dict[str, Tensor]:
        """Weighted losses of the detector and of the refinement.

        Args:
            maps: FPN maps of B images.
            rois: R foreground proposals.
            instances: the same image by image, with ``gt_masks``.
        """
        device = rois.logits.device
        result: dict[str, Tensor] = {}
        chosen = images_by_turns([len(per_image) for per_image in instances], self.train_rois)
        some, some_instances = rois[chosen.to(device)], select_rois(instances, chosen)

        # Which cells are incoherent (section 3.2)
        seen, seen_instances = (rois, instances) if self.detector.learns_from_all else (some, some_instances)
        roots = self.detector(maps, seen)  # (R, 2 P, 2 P), or None where every cell is a node
        truth: list[Tensor] | None = None
        if roots is not None:
            truth = incoherent_cells(seen_instances, self.sizes, self.target, device)  # (R, S, S) a level
            loss = mask_loss(roots, truth[0])
            loss = loss + dice_loss(roots, truth[0]) if self.dice else loss
            result["loss_mask_uncertain"] = self.incoherence_weight * loss
        if roots is not None and truth is not None and self.detector.learns_from_all:
            roots, truth = roots[chosen], [level[chosen] for level in truth]
        cells, labelled = self.detector.cells(maps, some, roots, truth)
        for logits, labels in labelled:
            result["loss_mask_uncertain"] += self.incoherence_weight * mask_loss(logits, labels)

        # What their labels are (section 3.3)
        nodes, counts = self.sampler(*self.nodes_of(cells, len(some)))
        logits, references, owners = self.refiner(maps, some, nodes, counts)  # (N,), (Q, P, P), (Q,)
        labels = read_cells([crop_masks(some_instances, size, device) for size in self.sizes], nodes)
        if self.train_references and references.numel() > 0:
            of_references = crop_masks(some_instances, references.shape[-1], device)[owners]
            logits = torch.cat([references.flatten(), logits])
            labels = torch.cat([of_references.flatten(), labels])
        # References join the graph in any case, as DDP wants
        loss = refine_loss(logits, labels) + 0 * references.sum()
        result["loss_mask_refine"] = self.refine_weight * loss
        return result

    def grow(self, maps: Maps, rois: RoIs) -> tuple[Cells, Nodes, Tensor]:
        """The cells that may become nodes, and the N nodes that inference refines. Two host synchronisations.

        Args:
            maps: FPN maps.
            rois: R RoIs.

        Returns:
            The cells; the nodes; and (R, L) int64 on the CPU, nodes of each RoI and level.
        """
        cells, _ = self.detector.cells(maps, rois, self.detector(maps, rois))
        return cells, *self.nodes_of(cells, len(rois), self.max_nodes)

    def nodes_of(self, cells: Cells, num_rois: int, most: int = 0) -> tuple[Nodes, Tensor]:
        """The nodes that are refined, and (R, L) int64 how many each RoI and level has, on the CPU.

        One host synchronisation.

        Args:
            cells: of R RoIs.
            num_rois: R.
            most: nodes of a RoI; 0: all.
        """
        keep = cells.incoherent
        for level in self.skip_levels:
            keep = keep & (cells.level != level)
        nodes, index, counts = pack(cells, keep, num_rois, self.sizes)
        return limit_nodes(nodes, counts, cells.scores[index], most)

    def refine(self, maps: Maps, rois: RoIs, nodes: Nodes, counts: Tensor) -> Tensor:
        """(N,) float32 probabilities of the nodes of R RoIs; ``counts`` as :meth:`grow` gives it."""
        logits = [rois.logits.new_zeros(0)]
        for some, part, of_part in self.memory.parts_of_nodes(nodes, counts, self.refiner.cells_of_roi):
            logits.append(self.refiner(maps, rois[some], part, of_part)[0])
        return torch.cat(logits).sigmoid()

    def propagate(self, rois: RoIs, nodes: Nodes, values: Tensor, finest: Tensor | None) -> Tensor:
        """Masks of the last level from coarse masks and refined values.

        Args:
            rois: R RoIs.
            nodes, values: N nodes and their (N,) probabilities.
            finest: (B,) int64 last level on which each image has nodes, for ``"bilinear"``.

        Returns:
            (R, S, S) float32 probabilities.
        """
        mask, last = rois.logits.sigmoid(), len(self.sizes) - 1
        if self.propagation == "none":
            return scatter_nodes(resize(mask, self.sizes[-1]), nodes, values, last)
        result = propagate(mask, nodes, values, last + 1, self.propagation)
        if finest is None:
            return result
        of_roi, side = finest[rois.boxes[:, 0].long()], self.sizes[-1]
        for level in range(last):
            passed = propagate(mask, nodes, values, level + 1, "bilinear")[:, None]
            passed = F.interpolate(passed, size=(side, side), mode="bilinear", align_corners=True)[:, 0]
            result = torch.where((of_roi == level)[:, None, None], passed, result)
        return result


def _finest_levels(parts: Sequence[RoIs], refined: Sequence[tuple[Nodes, Tensor]], num_images: int) -> Tensor:
    """(B,) int64 last level with nodes of each image; what another image of the batch has does not show."""
    device = parts[0].boxes.device if parts else None
    finest = torch.zeros(num_images, dtype=torch.int64, device=device)
    for part, (nodes, _) in zip(parts, refined, strict=True):
        image = part.boxes[:, 0].long()
        finest = finest.scatter_reduce(0, image[nodes.roi], nodes.level, "amax")
    return finest
