"""DETR (Carion et al., ECCV 2020) on the encoder and decoder of Hugging Face transformers.

Shapes: B images, N tokens of one map, Q queries, L decoder layers, K classes, C channels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from .predictions import BoxHead, Predictions, class_head, xavier_uniform
from .tokens import Tokens


class PlainDetector(nn.Module):
    """Tokens to classes and boxes, by attention to all tokens."""

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        """The arguments are the keys of ``MODEL.QUERY``."""
        super().__init__()
        self.encoder, self.decoder = _library_parts(
            d_model=dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            encoder_attention_heads=num_heads,
            decoder_attention_heads=num_heads,
            encoder_ffn_dim=ffn_dim,
            decoder_ffn_dim=ffn_dim,
            dropout=dropout,
        )
        self.queries = nn.Embedding(num_queries, dim)
        self.class_head = class_head(dim, num_classes)
        self.box_head = BoxHead(dim)
        # There is no reference to start from, so boxes must differ from the start
        nn.init.xavier_uniform_(self.box_head.layers[-1].weight)

    def forward(self, tokens: Tokens) -> tuple[Predictions, None]:
        """The predictions of the decoder layers."""
        memory = self.encoder(
            inputs_embeds=tokens.features,
            attention_mask=tokens.valid,
            spatial_position_embeddings=tokens.positions,
        ).last_hidden_state
        queries = self.queries.weight.expand(len(memory), -1, -1)
        decoded = self.decoder(
            inputs_embeds=torch.zeros_like(queries),
            encoder_hidden_states=memory,
            encoder_attention_mask=tokens.valid,
            spatial_position_embeddings=tokens.positions,
            object_queries_position_embeddings=queries,
            output_hidden_states=True,
        )
        # The library's own switch for all layers feeds the normalised states on, which DETR does not
        norm = cast("nn.Module", self.decoder.layernorm)
        earlier = [norm(states) for states in decoded.hidden_states[1:-1]]
        states = torch.stack([*earlier, decoded.last_hidden_state])
        return Predictions(self.class_head(states).float(), self.box_head(states).sigmoid()), None


def _library_parts(**settings: Any) -> tuple[nn.Module, nn.Module]:
    from transformers import DetrConfig, ResNetConfig
    from transformers.models.detr import modeling_detr as library

    # Nothing builds this backbone; without it, early versions 5 look for one on the network
    config = DetrConfig(backbone_config=ResNetConfig(), **settings)
    parts = library.DetrEncoder(config), library.DetrDecoder(config)
    for part in parts:
        xavier_uniform(part)
    return parts
