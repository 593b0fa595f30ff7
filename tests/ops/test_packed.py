"""Round trips between packed and padded sequences, joining, and grouping by length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crispmask.ops import bucket_by_length, join_packed, packed_to_padded, padded_to_packed

lengths_strategy = st.lists(st.integers(0, 9), max_size=7)


def make_packed(lengths, channels=3, seed=0):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(int(offsets[-1]), channels, generator=torch.Generator().manual_seed(seed))
    return values, offsets


@settings(max_examples=50, deadline=None)
@given(lengths_strategy)
def test_round_trip(lengths):
    values, offsets = make_packed(lengths)
    padded, present = packed_to_padded(values, offsets)
    assert padded.shape == (len(lengths), max(lengths, default=0), 3)
    assert present.sum(1).tolist() == lengths
    assert not padded[~present].any()
    for row, part in zip(padded, values.split(lengths), strict=True):
        assert torch.equal(row[: len(part)], part)
    assert torch.equal(padded_to_packed(padded, offsets), values)
    assert torch.equal(padded_to_packed(padded, offsets, total=len(values)), values)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_join_is_concatenation_per_sequence(lengths):
    first, first_offsets = make_packed([a for a, _ in lengths], seed=1)
    second, second_offsets = make_packed([b for _, b in lengths], seed=2)
    joined, offsets, places = join_packed(first, first_offsets, second, second_offsets)
    parts = zip(first.split([a for a, _ in lengths]), second.split([b for _, b in lengths]), strict=True)
    assert torch.equal(joined, torch.cat([first[:0], *(torch.cat(pair) for pair in parts)]))
    assert offsets.diff().tolist() == [a + b for a, b in lengths]
    assert torch.equal(joined[places], second)


def test_gradients_pass_through():
    values, offsets = make_packed([2, 0, 3])
    values = values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: packed_to_padded(v, offsets)[0], values)
    padded = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: padded_to_packed(p, offsets), padded)


def test_given_length_cuts_and_fills():
    values, offsets = make_packed([2, 5])
    padded, present = packed_to_padded(values, offsets, length=3)
    assert present.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(padded[1], values[2:5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=20), st.floats(0, 1), st.integers(1, 300))
def test_buckets_hold_every_sequence_once_within_the_limits(lengths, max_padding, max_tokens):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    groups = bucket_by_length(offsets, max_padding, max_tokens)
    members = [i for group in groups for i in group.tolist()]
    assert sorted(members) == [i for i, n in enumerate(lengths) if n]
    for group in groups:
        sizes = [lengths[i] for i in group.tolist()]
        assert min(sizes) >= (1 - max_padding) * max(sizes)
        assert len(sizes) == 1 or len(sizes) * max(sizes) <= max_tokens


def test_deterministic_mode_gives_the_same_gradient_bits():
    values, offsets = make_packed([3, 0, 5, 2], channels=33)
    values.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            joined, both, places = join_packed(values, offsets, values * 2, offsets)
            packed = padded_to_packed(packed_to_padded(joined, both)[0], both)
            runs.append(torch.autograd.grad(packed[places].sin().sum() + packed.square().sum(), values)[0])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(run, runs[0]) for run in runs[1:])


def test_bad_offsets_are_named():
    values, offsets = make_packed([2, 1])
    with pytest.raises(TypeError, match="offsets must be an int64 tensor"):
        packed_to_padded(values, offsets.int())
    with pytest.raises(ValueError, match=r"offsets must have shape \(R \+ 1,\)"):
        packed_to_padded(values, offsets[:0])
    for wrong in ([0, 2, 4], [1, 2, 3], [0, 4, 3]):
        with pytest.raises(ValueError, match="offsets must rise from 0 to the 3 tokens of values"):
            packed_to_padded(values, torch.tensor(wrong))
    with pytest.raises(ValueError, match=r"offsets must have R \+ 1 = 4 entries"):
        padded_to_packed(torch.zeros(3, 4), offsets)
    with pytest.raises(ValueError, match="offsets must be on the device of padded, meta, got cpu"):
        padded_to_packed(torch.zeros(2, 4, device="meta"), offsets)
    with pytest.raises(ValueError, match="offsets must have the same length"):
        join_packed(values, offsets, values, torch.tensor([0, 3]))


def test_other_bad_arguments_are_named():
    values, offsets = make_packed([2, 1])
    with pytest.raises(TypeError, match="values must be a tensor of at least 1 axes, got NoneType"):
        packed_to_padded(None, offsets)
    with pytest.raises(TypeError, match=r"padded must be a tensor of at least 2 axes, got \(2,\)"):
        padded_to_packed(torch.zeros(2), offsets)
    with pytest.raises(ValueError, match="padded must have T of at least 2, got 1"):
        padded_to_packed(torch.zeros(2, 1), offsets)
    with pytest.raises(ValueError, match="total must be the last of offsets, 3, got 5"):
        padded_to_packed(torch.zeros(2, 2), offsets, total=5)
    with pytest.raises(ValueError, match="length must be at least 0, got -1"):
        packed_to_padded(values, offsets, length=-1)
    with pytest.raises(ValueError, match="tokens must have the same shape"):
        join_packed(values, offsets, values[:, :2], offsets)
    with pytest.raises(TypeError, match="tokens must have the same dtype"):
        join_packed(values, offsets, values.half(), offsets)
    with pytest.raises(ValueError, match=r"max_padding must lie in \[0, 1\]"):
        bucket_by_length(offsets, 1.5)
    with pytest.raises(TypeError, match="max_padding must hold numbers"):
        bucket_by_length(offsets, "much")
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        bucket_by_length(offsets, max_tokens=0)
