"""One token of many sequences, replayed: everything between in_proj and out_proj in one launch, with the bits of the scan.

A program takes one head of one slot. It runs the scan's tile (chunk_tile.py) over the tokens since the chunk's start, out of the slot's
ring, with the current token out of in_proj's row, and stores that token's row alone. At a chunk's first token it writes the full
chunk before into the state. The launch allocates nothing, waits for nothing and reads the positions on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .chunk_tile import (
    MERGED,
    NORMED,
    RAW,
    carry,
    cos_sin,
    increment,
    last_row,
    output_rows,
    read_out,
    reduce_angle,
    row_scale,
    spread,
    token_scalars,
    turned_rows,
    turns,
    values,
    weights,
)
from .projection import Layer, check_rows
from .scan_forward import TYPES
from .slot_state import SlotState
from .tile_table import block_rows, launch_options


@triton.jit
def ring_row(begin, t, C: tl.constexpr):
    """Rows of the ring for the tokens t of the chunk that begins at position `begin`; any row within the ring for t past C."""
    row = begin % (C + 1) + tl.minimum(t, C)
    return tl.where(row > C, row - C - 1, row)


@triton.jit
def ring_scalars(p_ring, begin, t_now, a_now, dt_now, trap_now, C: tl.constexpr, tokens: tl.constexpr):
    """c, gamma, w and dt [tokens] of the chunk that begins at position `begin`: out of the ring [3, C + 1] before t_now, the current
    token at t_now. With t_now = C that one is no part of the chunk: its dt and trap make the weight of the chunk's last token.
    """
    RING: tl.constexpr = C + 1
    u = tl.arange(0, tokens)
    row, row_next = ring_row(begin, u, C), ring_row(begin, u + 1, C)
    m, m_next = (u < t_now) & (u < C), (u + 1 < t_now) & (u < C)
    now, now_next = (u == t_now) & (u < C), u + 1 == t_now
    a = tl.where(now, a_now, tl.load(p_ring + row, mask=m, other=0.0))
    dt = tl.where(now, dt_now, tl.load(p_ring + RING + row, mask=m, other=0.0))
    trap = tl.where(now, trap_now, tl.load(p_ring + 2 * RING + row, mask=m, other=0.0))
    dt_next = tl.where(now_next, dt_now, tl.load(p_ring + RING + row_next, mask=m_next, other=0.0))
    trap_next = tl.where(now_next, trap_now, tl.load(p_ring + 2 * RING + row_next, mask=m_next, other=0.0))
    gamma, w = weights(dt, trap, dt_next, trap_next)
    return tl.cumsum(a, 0), tl.gather(gamma, u, 0), tl.gather(w, u, 0), dt


@triton.jit
def flush(
    p_ring_k, p_ring_angle, p_ring_x, p_ring, p_k_bias, p_mimo_x, p_g, p_read, p_theta, position, i_h, a_now, dt_now, trap_now,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, DT: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Write the chunk that ends before `position` into the slot's state and angle."""
    tokens: tl.constexpr = L // R
    u = tl.arange(0, tokens)
    begin = position - C
    c, _, w, dt = ring_scalars(p_ring, begin, C, a_now, dt_now, trap_now, C, tokens)
    m_angle = (u < C)[:, None]
    j = tl.arange(0, S)
    angle = tl.load(p_ring_angle + ring_row(begin, u, C)[:, None] * S + j[None, :], mask=m_angle, other=0.0)
    turned = turns(angle.to(tl.float32), dt)
    theta = tl.load(p_theta + j)
    cos, sin = cos_sin(theta[None, :] + turned)
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    row = ring_row(begin, t, C)
    o_k = (row * R + rank) * G * N + i_h // (H // G) * N
    k = turned_rows(
        p_ring_k, o_k, t < C, p_ring_k, o_k, t < C, o_k, p_ring_k, p_k_bias, (i_h * R + rank) * N,
        spread(cos, R), spread(sin, R), N, S, HALF, DT, NORMED, tl.float32,
    )  # fmt: skip
    n, x = tl.arange(0, N), tl.arange(0, P)
    v = tl.load(p_ring_x + ((row * H + i_h) * P)[:, None] + x[None, :], mask=(t < C)[:, None], other=0.0).to(tl.float32)
    v = values(v, p_mimo_x, ((i_h * R + rank) * P)[:, None] + x[None, :], MIMO)
    added, decay = increment(k, v, c, w, R, DT)
    o_g = x[:, None] * N + n[None, :]
    g = carry(tl.load(p_g + o_g), decay, added)
    theta = reduce_angle(theta + last_row(turned, tokens))
    tl.store(p_g + o_g, g)
    tl.store(p_theta + j, theta)
    if COPY:
        tl.store(p_read + o_g, g.to(DT))


@triton.jit
def replay_kernel(
    p_z, p_x, p_b, p_c, p_dt, p_a, p_trap, p_angle, p_b_norm, p_c_norm, p_dt_bias,
    p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_slots,
    p_g, p_read, p_theta, p_ring_k, p_ring_angle, p_ring_x, p_ring_scalars, p_position, p_out, s_row,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
    HEAVY: tl.constexpr, FLOOR: tl.constexpr, EPS: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """The current token's row of one head, p_out [n, H, P]. Grid (n, H)."""
    RING: tl.constexpr = C + 1
    tokens: tl.constexpr = L // R
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, x, j, u = tl.arange(0, N), tl.arange(0, P), tl.arange(0, S), tl.arange(0, tokens)
    p_row = p_out + (i_n * H + i_h) * P + x
    slot = tl.load(p_slots + i_n).to(tl.int64)
    if slot < 0:
        tl.store(p_row, tl.zeros((P,), p_out.dtype.element_ty))
        return
    position = tl.load(p_position + slot)
    now = position % C
    begin = position - now
    group = i_h // (H // G)
    o_row = i_n * s_row
    p_z, p_x, p_b, p_c = p_z + o_row + i_h * P, p_x + o_row + i_h * P, p_b + o_row, p_c + o_row
    p_angle += o_row
    a_now, dt_now, trap_now = token_scalars(
        tl.load(p_dt + o_row + i_h), tl.load(p_a + o_row + i_h), tl.load(p_trap + o_row + i_h),
        tl.load(p_dt_bias + i_h).to(tl.float32), HEAVY, FLOOR,
    )  # fmt: skip
    p_g += (slot * H + i_h) * P * N
    p_read += (slot * H + i_h) * P * N
    p_theta += (slot * H + i_h) * S
    p_ring_k += slot * RING * R * G * N
    p_ring_angle += slot * RING * S
    p_ring_x += slot * RING * H * P
    p_ring = p_ring_scalars + (slot * H + i_h) * 3 * RING
    if (now == 0) & (position > 0):
        flush(
            p_ring_k, p_ring_angle, p_ring_x, p_ring, p_k_bias, p_mimo_x, p_g, p_read, p_theta, position, i_h,
            a_now, dt_now, trap_now, H, G, R, N, P, S, C, L, HALF, MIMO, DT, COPY,
        )  # fmt: skip
        tl.debug_barrier()
    theta = tl.load(p_theta + j)
    own = position % RING
    past = ring_row(begin, u, C)
    c, gamma, w, dt = ring_scalars(p_ring, begin, now, a_now, dt_now, trap_now, C, tokens)
    kept = tl.load(p_ring_angle + past[:, None] * S + j[None, :], mask=(u < now)[:, None], other=0.0)
    angle_now = tl.load(p_angle + j)
    angle = tl.where((u == now)[:, None], angle_now[None, :], kept).to(tl.float32)
    cos, sin = cos_sin(theta[None, :] + turns(angle, dt))
    cos, sin = spread(cos, R), spread(sin, R)

    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    before, current = t < now, t == now
    row = ring_row(begin, t, C)
    ranks = tl.arange(0, R)
    o_k, o_bc = (row * R + rank) * G * N + group * N, (ranks * G + group) * N
    raw = tl.load(p_b + o_bc[:, None] + n[None, :]).to(tl.float32)
    scale = row_scale(raw, EPS)
    if i_h % (H // G) == 0:
        fresh = raw * scale[:, None] * tl.load(p_b_norm + n).to(tl.float32)[None, :]
        o_own = own * R * G * N + o_bc
        tl.store(p_ring_k + o_own[:, None] + n[None, :], fresh.to(DT))
    o_bias = (i_h * R + rank) * N
    k = turned_rows(
        p_ring_k, o_k, before, p_b, o_bc, current, scale, p_b_norm, p_k_bias, o_bias, cos, sin, N, S, HALF, DT,
        MERGED, DT,
    )  # fmt: skip
    tl.debug_barrier()
    raw = tl.load(p_c + o_bc[:, None] + n[None, :]).to(tl.float32)
    q = turned_rows(
        p_c, o_k, current, p_c, o_bc, current, row_scale(raw, EPS), p_c_norm, p_q_bias, o_bias, cos, sin, N, S, HALF, DT,
        RAW, DT,
    )  # fmt: skip
    o_kept = ((row * H + i_h) * P)[:, None] + x[None, :]
    o_mimo = ((i_h * R + rank) * P)[:, None] + x[None, :]
    x_now = tl.load(p_x + x)
    v = tl.where(current[:, None], x_now[None, :], tl.load(p_ring_x + o_kept, mask=before[:, None], other=0.0))
    v = values(v.to(tl.float32), p_mimo_x, o_mimo, MIMO)
    tl.debug_barrier()
    g = tl.load(p_read + x[:, None] * N + n[None, :])
    y = read_out(q, k, v, g, c, gamma, w, R, DT)
    tl.debug_barrier()
    z = tl.broadcast_to(tl.load(p_z + x).to(tl.float32)[None, :], (L, P))
    d = tl.load(p_d + i_h).to(tl.float32)
    out = output_rows(y, v, z, d, p_norm, i_h * P, p_mimo_z, p_mimo_o, o_mimo, R, MIMO, NORM)
    tl.store(p_row[None, :] + (u * 0)[:, None], out.to(p_out.dtype.element_ty), mask=(u == now)[:, None])

    tl.store(p_ring_x + (own * H + i_h) * P + x, x_now)
    if i_h == 0:
        tl.store(p_ring_angle + own * S + j, angle_now)
    tl.store(p_ring + own, a_now)
    tl.store(p_ring + RING + own, dt_now)
    tl.store(p_ring + 2 * RING + own, trap_now)


def check_slots(slots: Tensor, rows: Tensor) -> None:
    """The form of the slot numbers; their values are the caller's to keep, as reading them would wait for the device."""
    if slots.dtype != torch.int32 or slots.shape != rows.shape[:1]:
        raise ValueError(f"slots: {slots.dtype} {list(slots.shape)} came, torch.int32 [{len(rows)}] wanted")
    if slots.device != rows.device:
        raise ValueError(f"slots: on {slots.device}, wanted beside projection on {rows.device}")


@torch.no_grad()
def mamba3_decode(
    projection: Tensor, layer: Layer, state: SlotState, slots: Tensor, out: Tensor | None = None
) -> Tensor:
    """One token of n slots in replay mode, one launch: in_proj's rows [n, width] -> [n, H, P] for out_proj, in their dtype.

    slots  int32 [n] on the device: the slot of every row, all different; -1: nobody, its row of the result is 0
    state  the slots, changed in place, except their positions: `state.advance(slots)` after all layers that share them
    out    [n, H, P] to be written, for a CUDA graph; None allocates

    The row is the scan's, bit for bit (scan_from_projection, prefill), whatever the batch. A slot number of state.slots or more
    is not noticed on a GPU. Raises a ValueError that names the argument for a wrong form.
    """
    s = check_rows(layer, projection, 2)
    check_slots(slots, projection)
    if projection.dtype != state.g_read.dtype or layer.chunk_size != state.size or state.g.shape[1:] != (s.H, s.P, s.N):
        raise ValueError(
            f"state: slots of {state.g_read.dtype}, C = {state.size}, {list(state.g.shape[1:])} came, those of the layer wanted"
        )
    if projection.device.type == "cpu" and len(slots) and int(slots.max()) >= state.slots:
        raise ValueError(f"slots: {int(slots.max())} came, -1 to {state.slots - 1} wanted")
    if out is None:
        out = projection.new_empty(len(projection), s.H, s.P)
    L, z_to_angle = block_rows(state.size, s.R), projection.split(layer.widths, dim=-1)
    w = layer.weights
    replay_kernel[(len(projection), s.H)](
        *z_to_angle, layer.b_norm, layer.c_norm, layer.dt_bias, *w, slots,
        state.g, state.g_read, state.theta, state.ring_k, state.ring_angle, state.ring_x, state.ring_scalars, state.position,
        out, projection.stride(0), H=s.H, G=s.G, R=s.R, N=s.N, P=s.P, S=s.S, C=state.size, L=L,
        HALF=layer.pairing == "half", MIMO=w.mimo_x is not None, NORM=w.norm_weight is not None,
        DT=TYPES[projection.dtype], HEAVY=layer.a_activation == "heavy_tail", FLOOR=layer.a_floor, EPS=layer.norm_eps,
        COPY=projection.dtype != torch.float32, **launch_options(s.N, s.P, L),
    )  # fmt: skip
    return out
