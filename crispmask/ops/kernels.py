"""Triton kernels of the ops and their launchers: same arguments and results as the torch references.

Imported on the first CUDA call, or under TRITON_INTERPRET=1 to check the kernels without a GPU. Offsets
into tensors are 64-bit, so tensors may have more than 2^31 elements.
"""

# Triton reads the annotations of kernel arguments, so those carry none.
# mypy: disallow-untyped-defs=False

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from crispmask.ops.samples import MOST_SAMPLES, empty_gradients

# Beyond these widths the torch references are as good: a tile is mostly halo, or a window no longer cached.
WIDEST_EROSION, WIDEST_BAND = 256, 16

_FAR = tl.constexpr(1 << 30)
_MAX_GRID = 65535
# Tile of an erosion pass: pixels along the line, and lines at once for rows and for columns, which are read
# side by side so that loads stay coalesced. For wide erosions it is longer and holds fewer lines.
_BLOCK, _ROWS_AT_ONCE, _COLUMNS_AT_ONCE = 128, 4, 32


def _on_the_gpu_of_its_tensors(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current GPU, which under MODEL.DEVICE cuda:1 is another one."""

    @wraps(launcher)
    def launch(tensors: Tensor | list[Tensor], *args: Any, **options: Any) -> Any:
        with torch.cuda.device_of(tensors if isinstance(tensors, Tensor) else tensors[0]):
            return launcher(tensors, *args, **options)

    return launch


@triton.jit
def _erode_lines(
    source_ptr,
    masks_ptr,
    out_ptr,
    boxes_ptr,
    length,
    lines,
    step,
    line_step,
    width,
    LAST: tl.constexpr,
    HAS_BOXES: tl.constexpr,
    BLOCK_LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One-dimensional erosion of a tile of lines: a pixel survives when the background is more than `width`
    # away on both sides. Two scans over the tile give those distances, whatever the width; `width` pixels
    # on either end are halo.
    mask_id = tl.program_id(0).to(tl.int64)
    line = tl.program_id(1) * BLOCK_LINES + tl.arange(0, BLOCK_LINES)
    position = tl.program_id(2) * (BLOCK - 2 * width) - width + tl.arange(0, BLOCK)
    offsets = mask_id * lines * length
    offsets += line[:, None].to(tl.int64) * line_step + position[None, :].to(tl.int64) * step
    valid = (line[:, None] < lines) & (position[None, :] >= 0) & (position[None, :] < length)
    if HAS_BOXES:
        low_x = tl.load(boxes_ptr + mask_id * 4)
        low_y = tl.load(boxes_ptr + mask_id * 4 + 1)
        high_x = tl.load(boxes_ptr + mask_id * 4 + 2)
        high_y = tl.load(boxes_ptr + mask_id * 4 + 3)
        if LAST:
            valid_line = (line >= low_x) & (line < high_x)
            valid_position = (position >= low_y) & (position < high_y)
        else:
            valid_line = (line >= low_y) & (line < high_y)
            valid_position = (position >= low_x) & (position < high_x)
        inside = valid & valid_line[:, None] & valid_position[None, :]
    else:
        inside = valid
    pixel = tl.load(source_ptr + offsets, mask=inside, other=0)
    at = tl.arange(0, BLOCK)[None, :]
    before = tl.associative_scan(tl.where(pixel != 0, -_FAR, at), 1, _larger)
    after = tl.associative_scan(tl.where(pixel != 0, _FAR, at), 1, _smaller, reverse=True)
    survives = (at - before > width) & (after - at > width)
    mine = valid & (at >= width) & (at < BLOCK - width)
    if LAST:
        pixel = tl.load(masks_ptr + offsets, mask=inside & mine, other=0)
        tl.store(out_ptr + offsets, ((pixel != 0) & (survives == 0)).to(tl.uint8), mask=mine)
    else:
        tl.store(out_ptr + offsets, survives.to(tl.uint8), mask=mine)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@_on_the_gpu_of_its_tensors
def mask_boundary(masks: Tensor, width: int, boxes: Tensor | None) -> Tensor:
    """Rows are eroded first, then columns, then the mask less its erosion is written: five bytes a pixel."""
    masks = masks.contiguous()
    out, rows = torch.empty_like(masks), torch.empty_like(masks)
    if masks.numel() == 0:
        return out
    height, columns = masks.shape[-2:]
    source, between, target = (x.view(torch.uint8) for x in (masks, rows, out))
    count = masks.numel() // (height * columns)
    block = max(_BLOCK, triton.next_power_of_2(4 * width))
    common = {"HAS_BOXES": boxes is not None, "BLOCK": block}
    box_table = masks if boxes is None else boxes.contiguous()
    at_once = [max(1, lines * _BLOCK // block) for lines in (_ROWS_AT_ONCE, _COLUMNS_AT_ONCE)]
    across = _tiles(columns, block - 2 * width)
    _erode_lines[(count, _tiles(height, at_once[0]), across)](
        source,
        source,
        between,
        box_table,
        columns,
        height,
        1,
        columns,
        width,
        LAST=False,
        BLOCK_LINES=at_once[0],
        **common,
    )
    _erode_lines[(count, _tiles(columns, at_once[1]), _tiles(height, block - 2 * width))](
        between,
        source,
        target,
        box_table,
        height,
        columns,
        columns,
        1,
        width,
        LAST=True,
        BLOCK_LINES=at_once[1],
        # With four warps this tile does not fit into the registers.
        num_warps=8,
        **common,
    )
    return out


def _tiles(size: int, tile: int) -> int:
    count = triton.cdiv(size, tile)
    if count > _MAX_GRID:
        raise ValueError(f"masks are too large for one launch: {size} pixels on a side; split them")
    return count


@triton.jit
def _band(
    masks_ptr,
    out_ptr,
    height,
    columns,
    area,
    at_least,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    mask_id = tl.program_id(0).to(tl.int64)
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(2) * COLS + tl.arange(0, COLS)[None, :]
    base = mask_id * height * columns
    total = tl.zeros([ROWS, COLS], tl.int32)
    for dy in range(-WIDTH, WIDTH + 1):
        for dx in range(-WIDTH, WIDTH + 1):
            near = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < columns)
            place = base + (y + dy).to(tl.int64) * columns + (x + dx)
            pixel = tl.load(masks_ptr + place, mask=near, other=0)
            total += (pixel != 0).to(tl.int32)
    here = (y < height) & (x < columns)
    offsets = base + y.to(tl.int64) * columns + x
    own = tl.load(masks_ptr + offsets, mask=here, other=0) != 0
    result = (own & (area - total >= at_least)) | ((own == 0) & (total >= at_least))
    tl.store(out_ptr + offsets, result.to(tl.uint8), mask=here)


@_on_the_gpu_of_its_tensors
def boundary_band(masks: Tensor, width: int) -> Tensor:
    """One pass; the window is read from the cache, which is cheap at the small widths in use."""
    masks = masks.contiguous()
    out = torch.empty_like(masks)
    if masks.numel() == 0:
        return out
    height, columns = masks.shape[-2:]
    area = (2 * width + 1) ** 2
    grid = (masks.numel() // (height * columns), _tiles(height, 8), _tiles(columns, 64))
    _band[grid](
        masks.view(torch.uint8),
        out.view(torch.uint8),
        height,
        columns,
        area,
        area // 10 + 1,
        WIDTH=width,
        ROWS=8,
        COLS=64,
    )
    return out


@triton.jit
def _incoherent_cells(
    masks_ptr, out_ptr, total, height, columns, LEVEL: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr
):
    # Nearest downsampling keeps top left pixels, so a cell at any level reads its 2 x 2 straight from the
    # input, with a stride; the ancestors are read in the same way, which spares both the pyramid and an
    # order between levels.
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < total
    cells_x = columns >> LEVEL
    cells_y = height >> LEVEL
    x = index % cells_x
    row = index // cells_x
    y = row % cells_y
    base = row // cells_y * height * columns
    result = here
    for up in tl.static_range(LEVEL, LEVELS + 1):
        shift = up - LEVEL
        stride = 1 << (up - 1)
        corner = base + ((y >> shift) * columns + (x >> shift)) * (2 * stride)
        a = tl.load(masks_ptr + corner, mask=here, other=0) != 0
        below = corner + columns.to(tl.int64) * stride
        b = tl.load(masks_ptr + (corner + stride), mask=here, other=0) != 0
        c = tl.load(masks_ptr + below, mask=here, other=0) != 0
        d = tl.load(masks_ptr + (below + stride), mask=here, other=0) != 0
        result = result & ((a != b) | (a != c) | (a != d))
    tl.store(out_ptr + index, result.to(tl.uint8), mask=here)


@_on_the_gpu_of_its_tensors
def incoherence(masks: Tensor, num_levels: int) -> list[Tensor]:
    """One launch a level, coarsest first."""
    masks = masks.contiguous()
    *lead, height, columns = masks.shape
    levels = []
    for level in range(num_levels, 0, -1):
        out = masks.new_empty((*lead, height >> level, columns >> level))
        if out.numel():
            _incoherent_cells[(triton.cdiv(out.numel(), 1024),)](
                masks.view(torch.uint8),
                out.view(torch.uint8),
                out.numel(),
                height,
                columns,
                LEVEL=level,
                LEVELS=num_levels,
                BLOCK=1024,
            )
        levels.append(out)
    return levels


@triton.jit
def _roi_align_cells(
    map_ptr,
    values_ptr,
    boxes_ptr,
    cells_ptr,
    feature,
    batch,
    channels,
    height,
    columns,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    scale,
    MOST_SAMPLES: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Program = one cell and a block of channels. Forward: the mean of its bilinear samples goes to
    # `values`. Backward: its gradient in `values` is spread over the same samples of `map`, by atomic adds.
    cell = tl.program_id(0).to(tl.int64)
    own_map = tl.load(cells_ptr + cell * 5 + 1)
    if own_map == feature:
        roi = tl.load(cells_ptr + cell * 5)
        side = tl.load(cells_ptr + cell * 5 + 2)
        y = tl.load(cells_ptr + cell * 5 + 3)
        x = tl.load(cells_ptr + cell * 5 + 4)
        image = tl.load(boxes_ptr + roi * 5).to(tl.int64)
        low_x = tl.load(boxes_ptr + roi * 5 + 1) * scale - 0.5
        low_y = tl.load(boxes_ptr + roi * 5 + 2) * scale - 0.5
        # Rounded as on the CPU: a bin of exactly two places would else be split into three now and then.
        step_x = tl.div_rn(tl.load(boxes_ptr + roi * 5 + 3) * scale - 0.5 - low_x, side.to(tl.float32))
        step_y = tl.div_rn(tl.load(boxes_ptr + roi * 5 + 4) * scale - 0.5 - low_y, side.to(tl.float32))
        inside = (x >= 0) & (y >= 0) & (x < side) & (y < side) & (image >= 0) & (image < batch)
        # False for NaN and infinity too.
        inside = inside & (step_x < MOST_SAMPLES) & (step_y < MOST_SAMPLES)
        samples_x = tl.where(inside, tl.maximum(tl.ceil(step_x), 0.0), 0.0).to(tl.int32)
        samples_y = tl.where(inside, tl.maximum(tl.ceil(step_y), 0.0), 0.0).to(tl.int32)
        share = 1.0 / tl.maximum(samples_x * samples_y, 1).to(tl.float32)
        channel = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        wanted = channel < channels
        plane = image * stride_b + channel * stride_c
        values = values_ptr + cell * channels + channel
        if BACKWARD:
            total = tl.load(values, mask=wanted, other=0.0).to(tl.float32) * share
        else:
            total = tl.zeros([BLOCK], tl.float32)
        for sample in range(samples_x * samples_y):
            point_y = low_y + y * step_y + (sample // samples_x + 0.5) * step_y / samples_y
            point_x = low_x + x * step_x + (sample % samples_x + 0.5) * step_x / samples_x
            if (point_y >= -1.0) & (point_y <= height) & (point_x >= -1.0) & (point_x <= columns):
                point_y = tl.maximum(point_y, 0.0)
                point_x = tl.maximum(point_x, 0.0)
                top = tl.minimum(point_y.to(tl.int32), height - 1)
                left = tl.minimum(point_x.to(tl.int32), columns - 1)
                down = tl.where(top == height - 1, 0.0, point_y - top)
                right = tl.where(left == columns - 1, 0.0, point_x - left)
                for corner in tl.static_range(4):
                    row = tl.minimum(top + corner // 2, height - 1).to(tl.int64)
                    column = tl.minimum(left + corner % 2, columns - 1).to(tl.int64)
                    weight_y = down if corner // 2 == 1 else 1.0 - down
                    weight_x = right if corner % 2 == 1 else 1.0 - right
                    place = map_ptr + plane + row * stride_y + column * stride_x
                    if BACKWARD:
                        tl.atomic_add(place, total * (weight_y * weight_x), mask=wanted)
                    else:
                        total += tl.load(place, mask=wanted, other=0.0).to(tl.float32) * (weight_y * weight_x)
        if BACKWARD == 0:
            tl.store(values, (total * share).to(values_ptr.dtype.element_ty), mask=wanted)


@_on_the_gpu_of_its_tensors
def _launch_cells(
    maps: list[Tensor], values: Tensor, scales: list[float], boxes: Tensor, cells: Tensor, backward: bool
) -> None:
    count, channels = values.shape
    if not values.numel():
        return
    block = min(256, triton.next_power_of_2(channels))
    boxes, cells = boxes.float().contiguous(), cells.T.contiguous()
    for index, (feature, scale) in enumerate(zip(maps, scales, strict=True)):
        _roi_align_cells[(count, triton.cdiv(channels, block))](
            feature,
            values,
            boxes,
            cells,
            index,
            len(feature),
            channels,
            *feature.shape[2:],
            *feature.stride(),
            scale,
            MOST_SAMPLES=MOST_SAMPLES,
            BACKWARD=backward,
            BLOCK=block,
        )


def gather_cells(features: list[Tensor], scales: list[float], boxes: Tensor, cells: Tensor) -> Tensor:
    """One launch a map; cells of other maps return at once. Nothing but the (N, C) result is allocated."""
    out = features[0].new_zeros((cells.shape[1], features[0].shape[1]))
    _launch_cells(features, out, scales, boxes, cells, backward=False)
    return out


def gather_cells_backward(
    grad: Tensor, batch: int, sizes: list[int], scales: list[float], boxes: Tensor, cells: Tensor
) -> list[Tensor]:
    """Gradients of the maps, added up in float32 in no fixed order."""
    maps = [m.zero_() for m in empty_gradients(grad, batch, sizes, torch.float32)]
    _launch_cells(maps, grad.contiguous(), scales, boxes, cells, backward=True)
    return [m.to(grad.dtype) for m in maps]
