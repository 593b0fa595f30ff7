"""Deformable DETR (Zhu et al., ICLR 2021) on the encoder and decoder layers of Hugging Face transformers.

The library has no entrance for ready feature maps, so what lies around its layers is here: where queries
start, how boxes are refined from layer to layer, and the two-stage variant (sections 4.1 and 4.2).

Shapes: B images, N tokens, M maps, Q queries, L decoder layers, K classes, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crispmask.modeling.blocks import sine_codes

from .predictions import BoxHead, Predictions, class_head, inverse_sigmoid, xavier_uniform
from .tokens import Tokens, proposal_boxes

# Attention logit of what must not be read: no share is left, and half precision can write it
UNREAD = -1e4


class Queries(NamedTuple):
    """Where the decoder starts.

    Attributes:
        states: (B, Q, C).
        positions: (B, Q, C), added to the states wherever they ask.
        references: (B, Q, 2) float32 points or (B, Q, 4) boxes, shares of the image without padding.
        usable: (B, Q) bool, False where a query only fills up an image that has fewer; None: all are.
    """

    states: Tensor
    positions: Tensor
    references: Tensor
    usable: Tensor | None = None


class DeformableDetector(nn.Module):
    """Tokens to classes and boxes.

    With ``BOX_REFINE`` the boxes of a layer are detached where the next one corrects them: every layer has
    losses of its own, and a gradient through all the corrections before would have a layer learn from the
    errors of the later ones.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int,
        num_maps: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        num_points: int,
        dropout: float,
        box_refine: bool,
        two_stage: bool,
    ) -> None:
        """The arguments are the keys of ``MODEL.QUERY``."""
        super().__init__()
        self.num_queries = num_queries
        self.box_refine = box_refine
        self.encoder, self.decoder_layers = _library_layers(
            num_feature_levels=num_maps,
            d_model=dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            encoder_attention_heads=num_heads,
            decoder_attention_heads=num_heads,
            encoder_ffn_dim=ffn_dim,
            decoder_ffn_dim=ffn_dim,
            encoder_n_points=num_points,
            decoder_n_points=num_points,
            dropout=dropout,
        )
        self.map_codes = nn.Parameter(torch.randn(num_maps, dim))
        self.start = TwoStageStart(num_queries, dim) if two_stage else LearntStart(num_queries, dim)
        heads = decoder_layers if box_refine else 1
        self.class_heads = nn.ModuleList(class_head(dim, num_classes) for _ in range(heads))
        self.box_heads = nn.ModuleList(
            # Only the first one adds to a point, which has no size
            BoxHead(dim, size_bias=-2.0 if index == 0 and not two_stage else 0.0)
            for index in range(heads)
        )

    def forward(self, tokens: Tokens) -> tuple[Predictions, Predictions | None]:
        """
        Returns:
            The predictions of the decoder layers, and those of the encoder (L = 1, Q = N, K = 1: "an object")
            where queries start from them.
        """
        maps = _map_arguments(tokens)
        codes = [c.expand(h * w, -1) for c, (h, w) in zip(self.map_codes, tokens.sizes, strict=True)]
        memory = self.encoder(
            inputs_embeds=tokens.features,
            attention_mask=tokens.valid,
            spatial_position_embeddings=tokens.positions + torch.cat(codes),
            valid_ratios=tokens.valid_ratios,
            **maps,
        ).last_hidden_state
        queries, proposals = self.start(memory, tokens)
        attended = {"encoder_hidden_states": memory, "encoder_attention_mask": tokens.valid, **maps}
        return self._decode(queries, tokens.valid_ratios, attended), proposals

    def _decode(self, queries: Queries, valid_ratios: Tensor, attended: dict[str, Any]) -> Predictions:
        states, positions, references, usable = queries
        attended = {**attended, "attention_mask": _attention_mask(usable, states)}
        logits, boxes = [], []
        for index, layer in enumerate(self.decoder_layers):
            states = layer(
                states,
                object_queries_position_embeddings=positions,
                reference_points=_on_maps(references, valid_ratios),
                **attended,
            )
            head = index if self.box_refine else 0
            logits.append(self.class_heads[head](states).float())
            boxes.append(_moved(references, self.box_heads[head](states)))
            if self.box_refine:
                references = boxes[-1].detach()
        return Predictions(torch.stack(logits), torch.stack(boxes), usable)


class LearntStart(nn.Module):
    """Queries that are the same in every image."""

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(num_queries, 2 * dim)
        self.point = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.point.weight)
        nn.init.zeros_(self.point.bias)

    def forward(self, memory: Tensor, tokens: Tokens) -> tuple[Queries, None]:
        """Queries for the B images of ``memory``, (B, N, C)."""
        positions, states = self.queries.weight.expand(len(memory), -1, -1).chunk(2, dim=-1)
        with torch.autocast(memory.device.type, enabled=False):
            points = self.point(positions).sigmoid()
        return Queries(states, positions, points), None


class TwoStageStart(nn.Module):
    """Queries from the boxes that the encoder finds most likely to hold an object (section 4.2).

    The boxes, and the queries that are made of them, are detached: the boxes have a set loss of their own,
    and the choice of the best has no gradient.
    """

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.inputs = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.class_head = class_head(dim, 1)
        self.box_head = BoxHead(dim)
        self.queries = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim))
        xavier_uniform(self.inputs)
        xavier_uniform(self.queries)

    def forward(self, memory: Tensor, tokens: Tokens) -> tuple[Queries, Predictions]:
        """
        Args:
            memory: (B, N, C) output of the encoder.

        Returns:
            At most ``num_queries`` queries, fewer where there are fewer tokens, and what they start from.
            Where an image has fewer usable tokens than that, the rest of its queries are not usable either.
        """
        anchors = proposal_boxes(tokens)
        usable = tokens.valid & ((anchors > 0.01) & (anchors < 0.99)).all(dim=-1)
        states = self.inputs(memory.masked_fill(~usable[..., None], 0.0))
        logits, boxes = self.class_head(states).float(), _moved(anchors, self.box_head(states))
        scores = logits[..., 0].masked_fill(~usable, -torch.inf)
        best = scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices
        references = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        codes = sine_codes(references, memory.shape[-1] // 2)
        positions, content = self.queries(codes).chunk(2, dim=-1)
        queries = Queries(content, positions, references, usable.gather(1, best))
        return queries, Predictions(logits[None], boxes[None], usable)


def _library_layers(**settings: Any) -> tuple[nn.Module, nn.ModuleList]:
    from transformers import DeformableDetrConfig, ResNetConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as library

    # Nothing builds this backbone; without it, early versions 5 look for one on the network
    config = DeformableDetrConfig(backbone_config=ResNetConfig(), **settings)
    parts = library.DeformableDetrEncoder(config), library.DeformableDetrDecoder(config).layers
    for part in parts:
        xavier_uniform(part)
    return parts


def _map_arguments(tokens: Tokens) -> dict[str, Any]:
    """What every deformable layer wants to know of the maps."""
    lengths = torch.tensor([height * width for height, width in tokens.sizes])
    device = tokens.features.device
    return {
        "spatial_shapes": torch.tensor(tokens.sizes, device=device),
        "spatial_shapes_list": tokens.sizes,
        "level_start_index": (lengths.cumsum(0) - lengths).to(device),
    }


def _attention_mask(usable: Tensor | None, states: Tensor) -> Tensor | None:
    """(B, 1, 1, Q) in the type of ``states``, (B, Q, C), that lets attention read usable queries alone."""
    if usable is None:
        return None
    return torch.zeros_like(states[..., 0]).masked_fill(~usable, UNREAD)[:, None, None]


def _on_maps(references: Tensor, valid_ratios: Tensor) -> Tensor:
    """(B, Q, M, 2 or 4) references as shares of each padded map."""
    ratios = valid_ratios if references.shape[-1] == 2 else valid_ratios.repeat(1, 1, 2)
    return references[:, :, None] * ratios[:, None]


def _moved(references: Tensor, deltas: Tensor) -> Tensor:
    """(..., 4) boxes from references, points (2) or boxes (4), and the output of a box head."""
    known = inverse_sigmoid(references)
    unknown = known.new_zeros(*known.shape[:-1], 4 - known.shape[-1])
    return (torch.cat([known, unknown], dim=-1) + deltas).sigmoid()
