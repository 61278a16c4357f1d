"""One token of many sequences, replayed: everything between in_proj and out_proj in one launch, with the bits of the scan.

A program takes one head of one slot. It asks the tile of the slot's chunk (chunk_tile.py) with its token's queries: the keys, values
and scalars of the tokens since the chunk's start lie in the slot's ring as the tile reads them, the token's own are added to it. At a
chunk's first token it writes the full chunk before into the state. All that a program reads and changes is its own, but for the
token's raw rows, which later prefills want. The launch allocates nothing, waits for nothing and reads the positions on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .chunk_tile import (
    QUERIES,
    carry,
    cos_sin,
    increment,
    output_rows,
    partner,
    read_out,
    reduce_angle,
    row_scale,
    sigmoid,
    token_scalars,
    turn_on,
    turned,
    values,
)
from .projection import Layer, check_rows
from .scan_forward import TYPES
from .slot_state import SCALARS, SlotState
from .tile_table import block_rows, pinned

FLUSH_COLUMNS = tl.constexpr(32)  # of the state that a flush holds at once
# Where B and C come from: rows of the projection, or tensors after the norm.
RAW, NORMED = tl.constexpr(0), tl.constexpr(1)
# Rows of ring_scalars.
ROWS = tl.constexpr(SCALARS)
ADT, DT_ROW, TRAP, SUM, GAMMA, WEIGHT = (tl.constexpr(i) for i in range(SCALARS))


@triton.jit
def flush(
    p_k, p_x, p_scalars, p_mimo_x, p_g, p_read, p_theta, p_turn, i_h, dt_now, trap_now,
    R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    MIMO: tl.constexpr, DT: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Write a full chunk into the slot's state and angle; dt and trap of the token after it make its last token's weight."""
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    x, j, m = tl.arange(0, P), tl.arange(0, S), t < C
    v = tl.load(p_x + t[:, None] * P + x[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    v = values(v, p_mimo_x, ((i_h * R + rank) * P)[:, None] + x[None, :], MIMO).to(DT)
    c = tl.load(p_scalars + SUM * C + t, mask=m, other=0.0)
    gamma = tl.load(p_scalars + GAMMA * C + t, mask=m, other=0.0)
    w = tl.load(p_scalars + WEIGHT * C + t, mask=t < C - 1, other=0.0)
    w = tl.where(t == C - 1, gamma + dt_now * sigmoid(-trap_now), w)
    total = tl.load(p_scalars + SUM * C + C - 1)
    PART: tl.constexpr = N if N < FLUSH_COLUMNS else FLUSH_COLUMNS
    for first in tl.range(0, N, PART, disable_licm=True):  # in parts: the whole state would take half of the registers
        n = first + tl.arange(0, PART)
        o_g = x[:, None] * N + n[None, :]
        k = tl.load(p_k + tl.arange(0, L)[:, None] * N + n[None, :], mask=m[:, None], other=0.0)
        added = increment(k, v, total, c, w, DT)
        g = carry(tl.load(p_g + o_g), tl.exp(total), added)
        tl.store(p_g + o_g, g)
        if COPY:
            tl.store(p_read + o_g, g.to(DT))
    tl.store(p_theta + j, reduce_angle(tl.load(p_theta + j) + tl.load(p_turn + j)))


@triton.jit
def normed(p, p_norm, scale, n, m, o_row, DT: tl.constexpr, SOURCE: tl.constexpr):
    """Entries n of rows of B or C after the norm, rounded to DT as they are when a tensor holds them; fp32 [rows, n]."""
    x = tl.load(p + o_row[:, None] + n[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    if SOURCE == RAW:
        x = (x * scale[:, None] * tl.load(p_norm + n).to(tl.float32)[None, :]).to(DT).to(tl.float32)
    return x


@triton.jit
def token_rows(
    p, p_norm, p_bias, o_row, o_bias, m, cos, sin, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, EPS: tl.constexpr,
    DT: tl.constexpr, SOURCE: tl.constexpr,
):  # fmt: skip
    """The token's rows of q or k: normed, and with bias and rotation, both fp32 [rows, N]; cos and sin [N]. Masked rows are 0."""
    n = tl.arange(0, N)
    other, _, sign = partner(n, N, S, HALF)
    scale = o_row.to(tl.float32)
    if SOURCE == RAW:
        scale = row_scale(tl.load(p + o_row[:, None] + n[None, :], mask=m[:, None], other=0.0).to(tl.float32), EPS)
    plain = normed(p, p_norm, scale, n, m, o_row, DT, SOURCE)
    u = plain + tl.load(p_bias + o_bias[:, None] + n[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    v = normed(p, p_norm, scale, other, m, o_row, DT, SOURCE)
    v += tl.load(p_bias + o_bias[:, None] + other[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    return plain, turned(u, v, cos[None, :], sin[None, :], sign[None, :])


@triton.jit
def store_token(
    y, p_x, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_row, i_h,
    P: tl.constexpr, R: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """From y [P, QUERIES] of the token's queries to its output row, p_row [P]; p_x, p_z [P] its values and gate logits."""
    i, x = tl.arange(0, QUERIES), tl.arange(0, P)
    o_mimo = ((i_h * R + tl.minimum(i, R - 1)) * P)[None, :] + x[:, None]
    v = tl.broadcast_to(tl.load(p_x + x).to(tl.float32)[:, None], (P, QUERIES))
    z = tl.broadcast_to(tl.load(p_z + x).to(tl.float32)[:, None], (P, QUERIES))
    d = tl.load(p_d + i_h).to(tl.float32)
    out = output_rows(
        y, values(v, p_mimo_x, o_mimo, MIMO), z, d, p_norm, i_h * P, p_mimo_z, p_mimo_o, o_mimo, R, MIMO, NORM
    )
    o_column = x[:, None] * 0 + tl.arange(0, QUERIES // R)[None, :]  # the sum over the token's ranks stands in column 0
    tl.store(p_row + x[:, None] + o_column * 0, out.to(p_row.dtype.element_ty), mask=o_column == 0)


@triton.jit
def replay_kernel(
    p_z, p_x, p_b, p_c, p_dt, p_a, p_trap, p_angle, p_b_norm, p_c_norm, p_dt_bias,
    p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_slots,
    p_g, p_read, p_theta, p_turn, p_ring_k, p_ring_x, p_ring_scalars, p_ring_b, p_ring_angle, p_position, p_out, s_row, s_wide, s_slot,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
    HEAVY: tl.constexpr, FLOOR: tl.constexpr, EPS: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """The current token's row of one head, p_out [n, H, P]. Grid (n, H)."""
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, x, j, i = tl.arange(0, N), tl.arange(0, P), tl.arange(0, S), tl.arange(0, QUERIES)
    p_row = p_out + (i_n * H + i_h) * P
    slot = tl.load(p_slots + i_n).to(tl.int64)
    if slot < 0:
        tl.store(p_row + x, tl.zeros((P,), p_out.dtype.element_ty))
        return
    position = tl.load(p_position + slot)
    now, group, o_row = position % C, i_h // (H // G), i_n * s_row
    o_wide, o_slot = slot * s_wide, slot * s_slot  # of what is fp32, and of the rest
    p_z, p_x, p_b, p_c = p_z + o_row + i_h * P, p_x + o_row + i_h * P, p_b + o_row, p_c + o_row
    p_angle += o_row
    a_now, dt_now, trap_now = token_scalars(
        tl.load(p_dt + o_row + i_h), tl.load(p_a + o_row + i_h), tl.load(p_trap + o_row + i_h),
        tl.load(p_dt_bias + i_h).to(tl.float32), HEAVY, FLOOR,
    )  # fmt: skip
    p_g, p_read = p_g + o_wide + i_h * P * N, p_read + (o_slot if COPY else o_wide) + i_h * P * N
    p_theta, p_turn = p_theta + o_wide + i_h * S, p_turn + o_wide + i_h * S
    p_scalars = p_ring_scalars + o_wide + i_h * ROWS * C
    p_ring_k, p_ring_x = p_ring_k + o_slot + i_h * C * R * N, p_ring_x + o_slot + i_h * C * P
    if (now == 0) & (position > 0):
        flush(
            p_ring_k, p_ring_x, p_scalars, p_mimo_x, p_g, p_read, p_theta, p_turn, i_h, dt_now, trap_now,
            R, N, P, S, C, L, MIMO, DT, COPY,
        )  # fmt: skip
        tl.debug_barrier()

    # The token's own queries, keys and values; the latter two join the chunk.
    _, o_angle, _ = partner(n, N, S, HALF)
    turn = tl.load(p_turn + o_angle, mask=n < now * N, other=0.0)
    turn = turn_on(turn, tl.load(p_angle + o_angle).to(tl.float32), dt_now)
    cos, sin = cos_sin(tl.load(p_theta + o_angle) + turn)
    m, o_bc, o_bias = i < R, (i * G + group) * N, (i_h * R + i) * N
    plain, k_now = token_rows(p_b, p_b_norm, p_k_bias, o_bc, o_bias, m, cos, sin, N, S, HALF, EPS, DT, RAW)
    _, q = token_rows(p_c, p_c_norm, p_q_bias, o_bc, o_bias, m, cos, sin, N, S, HALF, EPS, DT, RAW)
    tl.store(p_ring_k + ((now * R + i) * N)[:, None] + n[None, :], k_now.to(DT), mask=m[:, None])
    tl.store(p_ring_x + now * P + x, tl.load(p_x + x))
    turn_before = tl.load(p_turn + j, mask=j < now * S, other=0.0)
    if i_h % (H // G) == 0:
        p_own = p_ring_b + o_slot + now * R * G * N
        tl.store(p_own + o_bc[:, None] + n[None, :], plain.to(DT), mask=m[:, None])
    tl.debug_barrier()

    # The chunk with the token in it.
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    before, held = t < now, t <= now
    g = tl.load(p_read + x[:, None] * N + n[None, :])
    k = tl.load(p_ring_k + tl.arange(0, L)[:, None] * N + n[None, :], mask=held[:, None], other=0.0)
    v = tl.load(p_ring_x + t[:, None] * P + x[None, :], mask=held[:, None], other=0.0).to(tl.float32)
    v = values(v, p_mimo_x, ((i_h * R + rank) * P)[:, None] + x[None, :], MIMO).to(DT)
    c = tl.load(p_scalars + SUM * C + t, mask=before, other=0.0)
    gamma = tl.load(p_scalars + GAMMA * C + t, mask=before, other=0.0)
    w = tl.load(p_scalars + WEIGHT * C + t, mask=t < now - 1, other=0.0)
    c_now = tl.load(p_scalars + SUM * C + now - 1, mask=now > 0, other=0.0) + a_now
    gamma_now, sigma_now = dt_now * sigmoid(trap_now), dt_now * sigmoid(-trap_now)  # sigma is the token before's
    w = tl.where(t == now - 1, gamma + sigma_now, w)
    weight = tl.exp(tl.minimum(c_now - c, 0.0)) * tl.where(before, w, 0.0)
    weight = tl.where(t == now, gamma_now, weight)
    y = read_out(q.to(DT), k, v, g, tl.zeros((QUERIES,), tl.float32) + c_now, weight[:, None], DT)
    store_token(y, p_x, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_row, i_h, P, R, MIMO, NORM)

    # The token's row of the ring.
    tl.store(p_turn + j, turn_on(turn_before, tl.load(p_angle + j).to(tl.float32), dt_now))
    tl.store(p_scalars + ADT * C + now, a_now)
    tl.store(p_scalars + DT_ROW * C + now, dt_now)
    tl.store(p_scalars + TRAP * C + now, trap_now)
    tl.store(p_scalars + SUM * C + now, c_now)
    tl.store(p_scalars + GAMMA * C + now, gamma_now)
    last = tl.load(p_scalars + GAMMA * C + now - 1, mask=now > 0, other=0.0)
    tl.store(p_scalars + WEIGHT * C + now - 1, last + sigma_now, mask=now > 0)
    if i_h == 0:
        tl.store(p_ring_angle + o_slot + now * S + j, tl.load(p_angle + j))


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
    state.check_layer(layer, projection.dtype)
    if projection.device.type == "cpu" and len(slots) and int(slots.max()) >= state.slots:
        raise ValueError(f"slots: {int(slots.max())} came, -1 to {state.slots - 1} wanted")
    if out is None:
        out = projection.new_empty(len(projection), s.H, s.P)
    w = layer.weights
    replay_kernel[(len(projection), s.H)](
        *projection.split(layer.widths, dim=-1), layer.b_norm, layer.c_norm, layer.dt_bias, *w, slots, *state.decoded, out,
        projection.stride(0), *state.strides, H=s.H, G=s.G, R=s.R, N=s.N, P=s.P, S=s.S, C=state.size, L=block_rows(state.size, s.R),
        HALF=layer.pairing == "half", MIMO=w.mimo_x is not None, NORM=w.norm_weight is not None,
        DT=TYPES[projection.dtype], HEAVY=layer.a_activation == "heavy_tail", FLOOR=layer.a_floor, EPS=layer.norm_eps,
        COPY=projection.dtype != torch.float32, **pinned("replay", "step", s, projection),
    )  # fmt: skip
    return out
