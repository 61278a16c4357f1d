"""The Mamba-3 scan and step in plain torch, fp32 or fp64, differentiable: the specification in code.

Section numbers are those of docs/mamba3.md. The scan is the chunked form of section 6, all tiles at once;
the step is the recurrence of section 4 for one token. Shapes: B batch, T tokens, H heads, G groups, N state, P head
width, R ranks, S angles, n sequences, M tiles of C tokens. Without MIMO R = 1 and mimo_x = mimo_z = mimo_o = 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from .checks import compute_dtype, read_offsets
from .rotation import TURN, Pairing, rotate
from .tensors import State, Tokens, Weights
from .tiles import Tiling, tiling

NORM_EPS = 1e-5
Named = TypeVar("Named", Tokens, Weights, State)


class Decay(NamedTuple):
    """The scalars of every tiled token, [M, H, C]. A blank token has a = dt = gamma = w = 0, which makes it inert."""

    c: Tensor  # sum of a from the tile's first token to this one
    dt: Tensor
    gamma: Tensor
    w: Tensor  # gamma + sigma: the weight of a token for every later one


def scan(
    tokens: Tokens,
    weights: Weights,
    *,
    pairing: Pairing,
    chunk_size: int,
    cu_seqlens: Tensor | None,
    initial_state: State | None,
    return_state: bool,
) -> tuple[Tensor, State | None]:
    """dispatch.mamba3_scan with checked arguments; the state is None unless return_state."""
    v = tokens.v
    B, T = v.shape[:2]
    offsets = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    plan = tiling(offsets, chunk_size, v.device)
    initial = None if initial_state is None else _cast(initial_state, v)
    with torch.autocast(v.device.type, enabled=False):
        out, state = _scan(plan, _cast(tokens, v), _cast(weights, v), pairing, initial, return_state)
    return out.to(v.dtype), state


def _cast(tensors: Named, v: Tensor) -> Named:
    dtype = compute_dtype(v)
    fields: Any = (x if x is None or x.dtype == dtype else x.to(dtype) for x in tensors)
    return type(tensors)(*fields)


def _scan(
    plan: Tiling, tokens: Tokens, weights: Weights, pairing: Pairing, initial: State | None, return_state: bool
) -> tuple[Tensor, State | None]:
    """Section 6 in one dtype."""
    B, T, H, P = tokens.v.shape
    decay, late = _decay(plan, tokens.adt, tokens.dt, tokens.trap)
    theta, theta_end = _angles(plan, tokens.angles, decay.dt, initial)
    rows = torch.cat([tokens.q, tokens.k], dim=2).flatten(0, 1).flatten(1, 2)  # [B * T, 2R * G, N]
    bias = torch.cat([weights.q_bias, weights.k_bias], dim=1)
    queries, keys = rotate(_per_head(plan.cut(rows), bias), theta.unsqueeze(2), pairing).chunk(2, dim=2)
    v = tokens.v.flatten(0, 1)
    v_ranks = _ranks(v, weights.mimo_x)  # [B * T, H, R, P]
    values = plan.cut(v_ranks.flatten(1, 2)).view(plan.tiles, H, -1, plan.size, P)

    y = _inside_tiles(queries, keys, values, decay)
    h_end = None
    if len(plan.counts) > 1 or initial is not None or return_state:
        g = None if initial is None else _entry(initial, late.index_select(0, plan.first), weights.mimo_x)
        before, h_end = _boundaries(plan, keys, values, decay, g)
        y = _add_read_out(y, queries, before, decay.c, first=plan.counts[0] if g is None else 0)
    y = plan.join(y.flatten(1, 2)).view_as(v_ranks)
    out = _output(y, v, tokens.z.flatten(0, 1), weights).view(B, T, H, P)
    if h_end is None or not return_state:
        return out, None
    k_last = _per_head(rows.index_select(0, plan.last).chunk(2, dim=1)[1].unsqueeze(2), weights.k_bias)
    k_end = rotate(k_last, theta_end[:, :, None, None], pairing).squeeze(3).transpose(1, 2)
    return out, State(theta_end, h_end, k_end.contiguous(), v.index_select(0, plan.last))


def _decay(plan: Tiling, adt: Tensor, dt: Tensor, trap: Tensor) -> tuple[Decay, Tensor]:
    """[B, H, T] to the tiled scalars and to late [B * T, H] = (1 - lambda) dt, the sigma of the token before."""
    B, H, T = dt.shape
    a, dt, trap = torch.stack([adt, dt, trap]).transpose(2, 3).reshape(3, B * T, H)
    gamma, late = dt * torch.sigmoid(trap), dt * torch.sigmoid(-trap)
    sigma = torch.cat([late[1:], late[:1]]).index_fill(0, plan.last, 0.0)
    columns = plan.cut(torch.cat([a, dt, gamma, gamma + sigma], dim=1).unsqueeze(1))  # [M, 1, C, 4H]
    a, dt, gamma, w = columns.view(plan.tiles, plan.size, 4, H).permute(2, 0, 3, 1).contiguous()
    return Decay(a.cumsum(-1), dt, gamma, w), late


def _angles(plan: Tiling, angles: Tensor, dt: Tensor, initial: State | None) -> tuple[Tensor, Tensor]:
    """Cumulative angles of every tiled token [M, H, C, S] and of every sequence's last one [n, H, S].

    Prefix sums inside a tile; between tiles the angle is carried in order, modulo 2 pi.
    """
    turns = plan.cut(torch.tanh(angles).flatten(0, 1)) * (math.pi * dt).unsqueeze(-1)
    prefix = turns.cumsum(2)
    ends = prefix[:, :, -1].split(plan.counts)
    start = prefix.new_zeros(len(plan.last), *ends[0].shape[1:]) if initial is None else initial.theta
    before, last = plan.carry(start, lambda i, theta: torch.remainder(theta + ends[i], TURN))
    return before.unsqueeze(2) + prefix, last


def _per_head(rows: Tensor, bias: Tensor) -> Tensor:
    """Rows of groups [M, R * G, C, N] plus bias [H, R, N]: heads' rows [M, H, R, C, N], head h from group h G // H."""
    (M, _, C, N), (H, R, _) = rows.shape, bias.shape
    G = rows.shape[1] // R
    groups = rows.view(M, R, G, C, N).transpose(1, 2).unsqueeze(2)
    return (groups + bias.view(G, H // G, R, 1, N)).flatten(1, 2)


def _ranks(v: Tensor, mimo_x: Tensor | None) -> Tensor:
    """[., H, P] to the values of the ranks [., H, R, P]."""
    return v.unsqueeze(2) if mimo_x is None else v.unsqueeze(2) * mimo_x


def _matrices(x: Tensor) -> Tensor:
    """[M, H, R, C, W] to one matrix per tile and head [M * H, R * C, W]."""
    return x.flatten(2, 3).flatten(0, 1)


def _inside_tiles(queries: Tensor, keys: Tensor, values: Tensor, decay: Decay) -> Tensor:
    """What the tokens of a tile give each other and themselves, [M, H, R, C, P].

    Row t of the scale holds exp(c_t - c_s) w_s for s < t, gamma_t for s = t and 0 for s > t, the same for all ranks: a
    strict mask, and the diagonal by itself.
    """
    M, H, R, C, _ = queries.shape
    difference = (decay.c.unsqueeze(-1) - decay.c.unsqueeze(-2)).clamp(max=0.0)
    diagonal = torch.eye(C, dtype=torch.bool, device=difference.device)
    weight = torch.where(diagonal, decay.gamma.unsqueeze(-2), decay.w.unsqueeze(-2)).tril()
    scale = difference.exp() * weight
    scores = torch.bmm(_matrices(queries), _matrices(keys).mT).view(M, H, R, C, R * C)
    scores = scores * torch.cat([scale] * R, dim=-1).unsqueeze(2)
    return torch.bmm(scores.view(M * H, R * C, R * C), _matrices(values)).view(M, H, R, C, -1)


def _entry(initial: State, late: Tensor, mimo_x: Tensor | None) -> Tensor:
    """The look-ahead state before a sequence's first token: h + sigma_0 sum_r v[r] (x) k[r]; late [n, H] is sigma_0."""
    v = _ranks(initial.v, mimo_x) * late[..., None, None]
    return initial.h + v.mT @ initial.k.transpose(1, 2)


def _boundaries(plan: Tiling, keys: Tensor, values: Tensor, decay: Decay, g: Tensor | None) -> tuple[Tensor, Tensor]:
    """The look-ahead state before every tile [M, H, P, N] and h after every sequence [n, H, P, N].

    The sigma of a sequence's last token is 0, so the last look-ahead state is h itself.
    """
    total = decay.c[..., -1:]
    to_end = (total - decay.c).clamp(max=0.0).exp() * decay.w
    writes = torch.bmm(_matrices(values).mT, _matrices(keys * to_end[:, :, None, :, None]))
    added = writes.view(*total.shape[:2], *writes.shape[1:]).split(plan.counts)
    kept = total.exp().unsqueeze(-1).split(plan.counts)
    start = torch.zeros_like(added[0]) if g is None else g
    return plan.carry(start, lambda i, state: torch.addcmul(added[i], state, kept[i]))


def _add_read_out(y: Tensor, queries: Tensor, before: Tensor, c: Tensor, first: int) -> Tensor:
    """Add exp(c) q g to y from tile `first` on; the tiles before it start from nothing."""
    if first == len(y):
        return y
    read = torch.bmm(_matrices(queries[first:]), before[first:].flatten(0, 1).mT)
    tail = torch.addcmul(y[first:], read.view(y[first:].shape), c[first:, :, None, :, None].exp())
    return torch.cat([y[:first], tail]) if first else tail


def _output(y: Tensor, v: Tensor, z: Tensor, weights: Weights) -> Tensor:
    """D skip, norm, gate and the sum over ranks (section 4): y [., H, R, P] and v, z [., H, P] to [., H, P]."""
    D = weights.D.view(-1, 1, 1)
    y = torch.addcmul(y, v.unsqueeze(2), D if weights.mimo_x is None else D * weights.mimo_x)
    if weights.norm_weight is not None:
        scale = torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPS)
        y = y * scale * weights.norm_weight.view(len(weights.D), 1, -1)
    if weights.mimo_z is None or weights.mimo_o is None:
        return y.squeeze(2) * functional.silu(z)
    gate = functional.silu(z.unsqueeze(2) * weights.mimo_z)
    return (y * weights.mimo_o * gate).sum(2)


def step(tokens: Tokens, weights: Weights, *, pairing: Pairing, state: State, inplace: bool) -> tuple[Tensor, State]:
    """dispatch.mamba3_step with checked arguments."""
    v = tokens.v
    with torch.autocast(v.device.type, enabled=False):
        out, new = _step(_cast(tokens, v), _cast(weights, v), pairing, _cast(state, v), state.h if inplace else None)
    if not inplace:
        return out.to(v.dtype), new
    state.theta.copy_(new.theta)
    state.k.copy_(new.k)
    state.v.copy_(new.v)
    return out.to(v.dtype), state


def _step(
    tokens: Tokens, weights: Weights, pairing: Pairing, state: State, h_out: Tensor | None
) -> tuple[Tensor, State]:
    """Section 4 in one dtype; the new h is written to h_out if there is one, which may be state.h."""
    dt, v = tokens.dt, tokens.v
    theta = torch.remainder(state.theta + torch.tanh(tokens.angles) * (math.pi * dt).unsqueeze(-1), TURN)
    rows = torch.cat([tokens.q, tokens.k], dim=1).flatten(1, 2).unsqueeze(2)  # [B, 2R * G, 1, N]
    heads = _per_head(rows, torch.cat([weights.q_bias, weights.k_bias], dim=1))
    queries, keys = rotate(heads, theta[:, :, None, None], pairing).squeeze(3).chunk(2, dim=2)  # [B, H, R, N]
    alpha, gamma = tokens.adt.exp(), dt * torch.sigmoid(tokens.trap)
    beta = dt * torch.sigmoid(-tokens.trap) * alpha
    written = torch.stack([state.v * beta.unsqueeze(-1), v * gamma.unsqueeze(-1)], dim=2)  # [B, H, 2, P]
    if weights.mimo_x is not None:
        written = (written.unsqueeze(3) * weights.mimo_x.unsqueeze(1)).flatten(2, 3)  # [B, H, 2R, P]
    beside = torch.cat([state.k.transpose(1, 2), keys], dim=2)  # [B, H, 2R, N]
    update = torch.bmm(written.flatten(0, 1).mT, beside.flatten(0, 1)).view_as(state.h)
    h = torch.addcmul(update, state.h, alpha[..., None, None], out=h_out)
    y = torch.bmm(queries.flatten(0, 1), h.flatten(0, 1).mT).view(*queries.shape[:3], -1)
    return _output(y, v, tokens.z, weights), State(theta, h, keys.transpose(1, 2), v)
