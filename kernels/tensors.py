"""The tensors of one call, by name. B batch, T tokens, H heads, G groups, N state, P head width, R ranks, S angles.

SPEC is docs/mamba3.md.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """What varies by token. A step has no T; a call without MIMO has no R before the door and R = 1 behind it."""

    q: Tensor  # [B, T, R, G, N], C after its norm, before bias and rotation
    k: Tensor  # [B, T, R, G, N], B likewise
    v: Tensor  # [B, T, H, P]
    z: Tensor  # [B, T, H, P], gate logits
    adt: Tensor  # [B, H, T], A dt
    dt: Tensor  # [B, H, T]
    trap: Tensor  # [B, H, T], trapezoid logits
    angles: Tensor  # [B, T, H or 1, S], angle logits


class Weights(NamedTuple):
    """The parameters of a layer that the kernels see (SPEC section 2)."""

    q_bias: Tensor  # [H, R, N]
    k_bias: Tensor  # [H, R, N]
    D: Tensor  # [H]
    mimo_x: Tensor | None  # [H, R, P]; None without MIMO
    mimo_z: Tensor | None  # [H, R, P]
    mimo_o: Tensor | None  # [H, R, P]
    norm_weight: Tensor | None  # [H * P]


class State(NamedTuple):
    """What a sequence leaves behind for its next token, one row per sequence; all zero: the start (SPEC section 5)."""

    theta: Tensor  # [n, H, S], cumulative angle in radians, modulo 2 pi
    h: Tensor  # [n, H, P, N]
    k: Tensor  # [n, R, H, N], the last key, biased and rotated
    v: Tensor  # [n, H, P], the last value, before mimo_x
