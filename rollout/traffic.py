"""Bytes that decoding has to move: the weights once a step, the state of every token."""

from __future__ import annotations

from torch import nn

from ..policy.config import Mamba3Config


def weight_bytes(model: nn.Module) -> int:
    """Read by one decode step: every parameter, but of an embedding that is no head only a few rows."""
    parts = {name: p.numel() * p.element_size() for name, p in model.named_parameters()}
    tied = "lm_head.weight" not in parts
    return sum(parts.values()) - (0 if tied else parts["backbone.embedding.weight"])


def token_bytes(config: Mamba3Config, mode: str, bytes_per_slot: int, element: int) -> float:
    """Of state, read and written for one token, all layers, on average over a chunk.

    recurrent: the whole slot, there and back. replay: the state as the tile reads it (`element` bytes an entry), half a ring of
    the chunk's tokens, and once per chunk the fp32 state there and back and its rounded copy.
    """
    if mode != "replay":
        return 2.0 * bytes_per_slot
    c = config
    entries, chunk = c.n_heads * c.headdim * c.d_state, c.tile_tokens
    rounded = element if element < 4 else 0
    flush = entries * (8 + rounded) / chunk
    row = element * (c.rank * c.ngroups * c.d_state + c.n_angles + c.n_heads * c.headdim) + 12 * c.n_heads
    return float(c.n_layer * (entries * element + flush + 0.5 * chunk * row))
