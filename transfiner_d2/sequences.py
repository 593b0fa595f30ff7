"""Sequences of tokens in one packed batch, and attention inside each of them.

Shapes: N tokens of Q sequences, D channels of a token.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from crispmask.ops import bucket_by_length, packed_to_padded, padded_to_packed

# Share of padding in a batch of attention: a CPU loses more by it than by more batches
MAX_PADDING = 0.04
# Before torch 2.5, jagged tensors ask the device for their longest sequence in every layer
HAS_JAGGED = "max_seqlen" in inspect.signature(torch.nested.nested_tensor_from_jagged).parameters


@dataclass(frozen=True)
class Sequences:
    """How N packed tokens form sequences, the longest first.

    Attributes:
        offsets: (Q + 1,) int64, where each sequence starts, on the device of the tokens.
        host_offsets: the same as numbers.
        groups: bounds of the groups of sequences of like length, from 0 to Q.
    """

    offsets: Tensor
    host_offsets: list[int]
    groups: list[int]

    @classmethod
    def from_lengths(cls, lengths: Tensor, device: torch.device) -> tuple[Sequences, Tensor]:
        """Sequences of the given lengths.

        Args:
            lengths: int64 on the CPU, of sequences in any order; those of length 0 are left out.
            device: of the tokens.

        Returns:
            The sequences, and on ``device`` the place of each given one among them (-1 where it is left out).
        """
        buckets = bucket_by_length(F.pad(lengths.cumsum(0), (1, 0)), MAX_PADDING)
        order = torch.cat(buckets) if buckets else lengths.new_zeros(0)
        places = torch.full_like(lengths, -1)
        places[order] = torch.arange(len(order))
        offsets = F.pad(lengths[order].cumsum(0), (1, 0))
        groups = F.pad(torch.tensor([len(bucket) for bucket in buckets]).cumsum(0), (1, 0))
        sequences = cls(offsets.to(device, non_blocking=True), offsets.tolist(), groups.long().tolist())
        return sequences, places.to(device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.host_offsets) - 1

    def attend(self, packed: Tensor, num_heads: int, dropout: float) -> Tensor:
        """Scaled dot-product attention inside each sequence, without its N x N weights in memory.

        On a GPU all sequences go at once, as one jagged tensor; elsewhere in batches of like length.

        Args:
            packed: (N, 3, D) queries, keys and values, D a multiple of ``num_heads``.
            dropout: of the attention weights; above 0 and on a CPU, the weights are in memory.

        Returns:
            (N, D).
        """
        packed = packed.unflatten(2, (num_heads, -1))
        if len(self) == 0:
            return packed[:, 2].flatten(1)
        # The fused kernels of a GPU want multiples of 8; for others the weights would be in memory
        if HAS_JAGGED and packed.is_cuda and packed.shape[3] % 8 == 0:
            return self.attend_jagged(packed, dropout)
        return self.attend_in_groups(packed, dropout)

    def attend_jagged(self, packed: Tensor, dropout: float) -> Tensor:
        """(N, 3, H, D / H) of one sequence or more to (N, D), in one call."""
        lengths = [end - start for start, end in pairwise(self.host_offsets)]
        jagged = [
            torch.nested.nested_tensor_from_jagged(
                x.contiguous(), self.offsets, min_seqlen=lengths[-1], max_seqlen=lengths[0]
            ).transpose(1, 2)
            for x in packed.unbind(1)
        ]
        query, key, value = jagged
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return attended.transpose(1, 2).values().flatten(1)

    def attend_in_groups(self, packed: Tensor, dropout: float) -> Tensor:
        """The same in padded batches of like length."""
        attended = [self._attend_group(packed, *bounds, dropout) for bounds in pairwise(self.groups)]
        return torch.cat(attended).flatten(1)

    def _attend_group(self, packed: Tensor, first: int, last: int, dropout: float) -> Tensor:
        """(N, 3, H, D / H) tokens to (N', H, D / H) of the sequences ``first`` to ``last``, exclusive."""
        start, end = self.host_offsets[first], self.host_offsets[last]
        tokens, count = packed[start:end], last - first
        longest = self.host_offsets[first + 1] - start
        if longest * count == end - start:
            batch = tokens.unflatten(0, (count, longest))
            return _attention(batch, None, dropout).flatten(0, 1)
        offsets = self.offsets[first : last + 1] - start
        batch, present = packed_to_padded(tokens, offsets, longest)
        return padded_to_packed(_attention(batch, present[:, None, None], dropout), offsets, end - start)


def _attention(batch: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """(Q, T, 3, H, D / H) to (Q, T, H, D / H)."""
    query, key, value = batch.permute(2, 0, 3, 1, 4)
    if batch.dtype == torch.float16 and batch.device.type == "cpu":
        # Older torch adds up in float16 there, beyond what that holds
        with torch.autocast("cpu", enabled=False):
            found = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, dropout)
        return found.to(batch.dtype).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout).transpose(1, 2)
