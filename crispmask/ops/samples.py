"""Which places of a feature map RoIAlign reads for a cell, and with what weights.

Shapes: R RoIs, N cells of their grids, P bilinear samples of all cells. Boxes are in pixels of the input
image, samples on the grid of one feature map (B, C, H_f, W_f).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops.checks import check_range

# Bilinear samples an axis of one cell. RoIAlign takes one for every place of the map that the cell spans, so
# more are only asked for by a box that is far larger than any image.
MOST_SAMPLES = 1024


def bilinear_samples(
    size: Sequence[int], scale: float, boxes: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The reading list of RoIAlign: which rows of a map make up each cell, and with what weight.

    Args:
        size: H_f and W_f of the map, whose rows are its B H_f W_f places.
        scale: from input pixels to cells of the map.
        boxes: (R, 5).
        cells: (5, N) RoI, map, side of the grid, y, x; cells off their grid get no sample.

    Returns:
        rows (P, 4) int64, weights (P, 4), and first (N + 1,) int64, the samples of each cell.
    """
    height, width = size
    roi, _, side, y, x = cells
    box = boxes[roi]
    start = box[:, 1:3] * scale - 0.5
    step = (box[:, 3:5] * scale - 0.5 - start) / side[:, None]
    samples = step.ceil().long().clamp(min=0)
    inside = (torch.minimum(x, y) >= 0) & (torch.maximum(x, y) < side)
    count = samples.prod(1) * inside
    first = F.pad(count.cumsum(0), (1, 0))
    cell = torch.repeat_interleave(count)
    rank = torch.arange(len(cell), device=boxes.device) - first[cell]
    across = samples[cell, 0]
    fraction = torch.stack([rank % across, rank // across], 1) + 0.5
    corner = torch.stack([x, y], 1)[cell]
    step = step[cell]
    point = start[cell] + corner * step + fraction * step / samples[cell]
    limit = torch.tensor([width, height], device=boxes.device)
    outside = ((point < -1) | (point > limit)).any(1)
    point = point.clamp(min=0)
    floor = torch.minimum(point.long(), limit - 1)
    above = torch.minimum(floor + 1, limit - 1)
    # Beyond the last row or column the sample sits on it, so the upper weight is nought.
    upper = (point - floor).clamp(max=1).masked_fill(floor == limit - 1, 0)
    lower = 1 - upper
    share = count[cell].to(boxes.dtype).reciprocal().masked_fill(outside, 0)
    across, down = (torch.stack([lower[:, axis], upper[:, axis]], 1) for axis in (0, 1))
    weights = (share[:, None] * down)[:, :, None] * across[:, None]
    across, down = (torch.stack([floor[:, axis], above[:, axis]], 1) for axis in (0, 1))
    image = (box[:, 0].long() * (height * width))[cell]
    rows = (image[:, None] + down * width)[:, :, None] + across[:, None]
    return rows.flatten(1), weights.flatten(1), first


def check_cells(batch: int, scales: list[float], boxes: Tensor, cells: Tensor) -> None:
    """Refuse boxes and cells that no map of a batch of ``batch`` images has; on the CPU only.

    Raises:
        ValueError: boxes that are not finite or far too large.
        IndexError: an RoI, a feature map or an image that does not exist.
    """
    # On other devices the check would wait for them.
    if not boxes.is_cpu or cells.numel() == 0:
        return
    check_range(cells[0], len(boxes), "the RoI of a node")
    check_range(cells[1], len(scales), "feature_levels")
    if not boxes.isfinite().all():
        raise ValueError("boxes must be finite; drop RoIs with NaN or infinite corners first")
    check_range(boxes[:, 0], batch, "the image index in boxes")
    sides = (boxes[:, 3:5] - boxes[:, 1:3]).amax(1)
    if (sides[cells[0]] * sides.new_tensor(scales)[cells[1]] > MOST_SAMPLES * cells[2]).any():
        raise ValueError(
            f"boxes must span at most {MOST_SAMPLES} places of a feature map a cell; clip them to the image"
        )


def empty_gradients(grad: Tensor, batch: int, sizes: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Room for gradients (B, C, H_f, W_f) with channels last: those of a cell are written side by side."""
    return [
        grad.new_empty((batch, height, width, grad.shape[1]), dtype=dtype).permute(0, 3, 1, 2)
        for height, width in zip(sizes[::2], sizes[1::2], strict=True)
    ]
