"""Packed sequences: the tokens of all RoIs in one list, cut by offsets, for attention over varying lengths.

Shapes: R RoIs (sequences), N tokens of all RoIs together, T the longest sequence; ``offsets`` (R + 1,)
int64 start at 0 and end at N. Everything here is a plain composition of differentiable torch functions,
which the compiler fuses better than it could an opaque op, so none of it is a custom op.
"""

import torch
from torch import Tensor

from crispmask.ops.checks import check_int, check_numbers
from crispmask.ops.dispatch import is_plain_cpu


def packed_to_padded(values: Tensor, offsets: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread packed tokens over (R, T), zeros behind each sequence. Differentiable.

    Args:
        values: (N, ...) tokens, any dtype.
        offsets: (R + 1,) int64.
        length: T; by default the longest sequence, at the price of one host synchronisation. Longer ones
            are cut.

    Returns:
        (R, T, ...) tokens, and (R, T) bool, True where there is a token.

    Raises:
        TypeError, ValueError: ``values`` is no tensor, ``offsets`` is no one-dimensional int64 tensor on its
            device, or ``length`` is negative; on the CPU also offsets that do not cut N tokens.
    """
    lengths = _check_packed(values, offsets, "values")
    if length is None:
        length = int(lengths.max()) if len(lengths) else 0
    check_int(length, "length", 0)
    steps = torch.arange(length, device=values.device)
    present = steps < lengths[:, None]
    # The row of zeros at the end serves every empty place, and an empty list of tokens too.
    rows = torch.where(present, offsets[:-1, None] + steps, len(values))
    return torch.cat([values, values.new_zeros((1, *values.shape[1:]))])[rows], present


def padded_to_packed(padded: Tensor, offsets: Tensor, total: int | None = None) -> Tensor:
    """Inverse of :func:`packed_to_padded`: (R, T, ...) -> (N, ...). Differentiable.

    Args:
        padded: (R, T, ...) with T no shorter than the longest sequence.
        offsets: (R + 1,) int64.
        total: N where it is known, which saves one host synchronisation.

    Raises:
        TypeError, ValueError: ``padded`` has no two axes, ``offsets`` is no one-dimensional int64 tensor of
            R + 1 entries on its device; on the CPU also sequences longer than T, or another ``total``.
    """
    _check_tokens(padded, offsets, "padded", 2)
    lengths = _lengths(offsets)
    if len(lengths) != len(padded):
        raise ValueError(f"offsets must have R + 1 = {len(padded) + 1} entries, got {len(offsets)}")
    if is_plain_cpu(offsets) and lengths.numel() and lengths.max() > padded.shape[1]:
        raise ValueError(f"padded must have T of at least {int(lengths.max())}, got {padded.shape[1]}")
    if total is None:
        total = int(offsets[-1])
    elif is_plain_cpu(offsets) and total != offsets[-1]:
        raise ValueError(f"total must be the last of offsets, {int(offsets[-1])}, got {total}")
    sequence = sequence_index(offsets, total)
    return padded[sequence, torch.arange(total, device=padded.device) - offsets[sequence]]


def sequence_index(offsets: Tensor, total: int) -> Tensor:
    """(N,) int64: which sequence each of the ``total`` packed tokens belongs to; no host synchronisation."""
    return torch.searchsorted(offsets[1:], torch.arange(total, device=offsets.device), right=True)


def join_packed(
    first: Tensor, first_offsets: Tensor, second: Tensor, second_offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Put two packed lists together, sequence by sequence: reference tokens before the nodes, say.
    Differentiable.

    Args:
        first: (N1, ...) tokens. first_offsets: (R + 1,) int64.
        second: (N2, ...) tokens of the same trailing shape and dtype. second_offsets: (R + 1,) int64.

    Returns:
        (N1 + N2, ...) tokens, their (R + 1,) offsets, and (N2,) the places that the second list went to, by
        which it is read back: ``joined[places]``.

    Raises:
        TypeError, ValueError: the lists do not hold as many sequences, their tokens differ in shape, dtype or
            device, or as :func:`packed_to_padded`.
    """
    _check_packed(first, first_offsets, "first")
    _check_packed(second, second_offsets, "second")
    if len(first_offsets) != len(second_offsets):
        raise ValueError(
            f"offsets must have the same length, got {len(first_offsets)} and {len(second_offsets)}"
        )
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"tokens must have the same shape, got {tuple(first.shape[1:])} and {tuple(second.shape[1:])}"
        )
    if first.dtype != second.dtype:
        raise TypeError(f"tokens must have the same dtype, got {first.dtype} and {second.dtype}")
    if first.device != second.device:
        raise ValueError(f"tokens must be on one device, got {first.device} and {second.device}")
    count1, count2 = len(first), len(second)
    places1 = (
        torch.arange(count1, device=first.device) + second_offsets[sequence_index(first_offsets, count1)]
    )
    places2 = (
        torch.arange(count2, device=first.device) + first_offsets[sequence_index(second_offsets, count2) + 1]
    )
    order = torch.empty(count1 + count2, dtype=torch.int64, device=first.device)
    order[places1] = torch.arange(count1, device=first.device)
    order[places2] = torch.arange(count1, count1 + count2, device=first.device)
    return torch.cat([first, second])[order], first_offsets + second_offsets, places2


def bucket_by_length(
    offsets: Tensor, max_padding: float = 0.25, max_tokens: int | None = None
) -> list[Tensor]:
    """Groups of sequences of like length, for attention that wants padded batches. One host synchronisation.

    Args:
        offsets: (R + 1,) int64.
        max_padding: in a group, no sequence is shorter than (1 - max_padding) of the longest; in [0, 1].
        max_tokens: upper bound of a group's padded size, rows times the longest; a single longer sequence
            is a group of its own.

    Returns:
        int64 tensors of sequence indices on the device of ``offsets``, longest first; empty sequences are
        in none.

    Raises:
        TypeError, ValueError: ``max_padding`` outside [0, 1], ``max_tokens`` < 1, or bad ``offsets``.
    """
    (max_padding,) = check_numbers([max_padding], "max_padding")
    if not 0 <= max_padding <= 1:
        raise ValueError(f"max_padding must lie in [0, 1], got {max_padding}")
    if max_tokens is not None:
        check_int(max_tokens, "max_tokens", 1)
    lengths, order = _lengths(offsets).sort(descending=True, stable=True)
    cuts: list[int] = []
    start, sizes = 0, [n for n in lengths.tolist() if n > 0]
    for i, size in enumerate(sizes):
        full = max_tokens is not None and (i + 1 - start) * sizes[start] > max_tokens
        if i > start and (full or size < (1 - max_padding) * sizes[start]):
            cuts.append(i - start)
            start = i
    return list(order[: len(sizes)].split([*cuts, len(sizes) - start])) if sizes else []


def _check_packed(values: Tensor, offsets: Tensor, name: str) -> Tensor:
    """Lengths of the sequences that ``offsets`` cut ``values`` into, after a check of both."""
    _check_tokens(values, offsets, name, 1)
    lengths = _lengths(offsets)
    if is_plain_cpu(offsets) and (
        offsets[0] != 0 or offsets[-1] != len(values) or (lengths.numel() and lengths.min() < 0)
    ):
        raise ValueError(f"offsets must rise from 0 to the {len(values)} tokens of {name}")
    return lengths


def _check_tokens(tokens: Tensor, offsets: Tensor, name: str, axes: int) -> None:
    if not isinstance(tokens, Tensor) or tokens.dim() < axes:
        got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be a tensor of at least {axes} axes, got {got}")
    if isinstance(offsets, Tensor) and offsets.device != tokens.device:
        raise ValueError(f"offsets must be on the device of {name}, {tokens.device}, got {offsets.device}")


def _lengths(offsets: Tensor) -> Tensor:
    if not isinstance(offsets, Tensor) or offsets.dtype != torch.int64:
        raise TypeError("offsets must be an int64 tensor; use F.pad(lengths.cumsum(0), (1, 0))")
    if offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(f"offsets must have shape (R + 1,), got {tuple(offsets.shape)}")
    return offsets.diff()


__all__ = ["bucket_by_length", "join_packed", "packed_to_padded", "padded_to_packed", "sequence_index"]
