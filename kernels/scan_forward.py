"""The scan forward in Triton, tile by tile: section 6 of the layer's specification.

Five launches: the scalars of each tile's tokens and the angle that it adds, per (tile, head); the angles at the tiles' starts, in
order, modulo 2 pi; what each tile adds to the state, per (tile, head); the states at the tiles' starts, one multiply-add a chunk, in
order; the output rows, per (tile, head). What a tile computes stands in chunk_tile.py, which the decode shares. Rotated q and k never
leave the registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import Sizes, read_offsets
from .chunk_tile import (
    NORMED,
    carry,
    cos_sin,
    increment,
    last_row,
    output_rows,
    read_out,
    reduce_angle,
    spread,
    tile_angles,
    tile_decay,
    turned_rows,
    turns,
    values,
)
from .rotation import Pairing
from .tensors import State, Tokens, Weights
from .tile_table import TileTable, block_rows, check_tile, launch_options, tile_table

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
STATE_BLOCK = 32  # rows of P that one program of the pass over the states carries


@triton.jit
def scalars_kernel(
    p_adt, p_dt, p_trap, p_angle, p_tiles, p_scalars, p_turn, s_angle_head, s_angle: tl.constexpr,
    H: tl.constexpr, S: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr,
):  # fmt: skip
    """c, gamma, w and dt of a tile's tokens, p_scalars fp32 [tiles, H, 4, tokens], and the angle that the tile adds, p_turn fp32
    [tiles, H, S]. Grid (tiles, H)."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    c, gamma, w, dt = tile_decay(p_adt, p_dt, p_trap, first, left, i_h, H, C, tokens)
    p_own = p_scalars + (i_tile * H + i_h) * 4 * tokens + tl.arange(0, tokens)
    tl.store(p_own, c)
    tl.store(p_own + tokens, gamma)
    tl.store(p_own + 2 * tokens, w)
    tl.store(p_own + 3 * tokens, dt)
    angle = tile_angles(p_angle, i_h * s_angle_head, s_angle, first, left, C, S, tokens)
    tl.store(p_turn + (i_tile * H + i_h) * S + tl.arange(0, S), last_row(turns(angle, dt), tokens))


@triton.jit
def angle_pass_kernel(
    p_turn, p_start, p_sequences, p_theta, p_end, H: tl.constexpr, S: tl.constexpr, START: tl.constexpr
):
    """The angles before every tile, p_theta [tiles, H, S], and after every sequence, p_end [n, H, S]. Grid (n, H)."""
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tile, count = tl.load(p_sequences + 2 * i_n).to(tl.int64), tl.load(p_sequences + 2 * i_n + 1)
    j = tl.arange(0, S)
    theta = tl.zeros((S,), tl.float32)
    if START:
        theta = tl.load(p_start + (i_n * H + i_h) * S + j)
    for _ in range(0, count):
        o = (tile * H + i_h) * S + j
        tl.store(p_theta + o, theta)
        theta = reduce_angle(theta + tl.load(p_turn + o))
        tile += 1
    tl.store(p_end + (i_n * H + i_h) * S + j, theta)


@triton.jit
def increment_kernel(
    p_k, p_v, p_scalars, p_angle, p_bias, p_mimo, p_theta, p_tiles, p_added, p_decay, p_last,
    s_k, s_v, s_angle_head, s_angle: tl.constexpr,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """What a tile adds to the state, p_added fp32 [tiles, H, P, N], its decay, p_decay fp32 [tiles, H], and the rotated key of its last
    token, p_last fp32 [tiles, R, H, N]. Grid (tiles, H)."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    o_head = i_tile * H + i_h
    p_own = p_scalars + o_head * 4 * (L // R) + tl.arange(0, L // R)
    dt = tl.load(p_own + 3 * (L // R))
    angle = tile_angles(p_angle, i_h * s_angle_head, s_angle, first, left, C, S, L // R)
    theta = tl.load(p_theta + o_head * S + tl.arange(0, S))[None, :] + turns(angle, dt)
    cos, sin = cos_sin(theta)
    cos, sin = spread(cos, R), spread(sin, R)
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    m = (t < C) & (t < left)
    n, x = tl.arange(0, N), tl.arange(0, P)
    o_row = t * s_k + rank * G * N + i_h // (H // G) * N
    p_k, p_v = p_k + first * s_k, p_v + first * s_v + i_h * P
    k = turned_rows(
        p_k,
        o_row,
        m,
        p_k,
        o_row,
        m,
        o_row,
        p_k,
        p_bias,
        (i_h * R + rank) * N,
        cos,
        sin,
        N,
        S,
        HALF,
        DT,
        NORMED,
        tl.float32,
    )
    last = t == tl.minimum(left, C) - 1
    tl.store(p_last + ((i_tile * R + rank) * H + i_h)[:, None] * N + n[None, :], k, mask=last[:, None])
    v = tl.load(p_v + (t * s_v)[:, None] + x[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    v = values(v, p_mimo, ((i_h * R + rank) * P)[:, None] + x[None, :], MIMO)
    tl.debug_barrier()
    c, w = tl.load(p_own), tl.load(p_own + 2 * (L // R))
    added, decay = increment(k, v, c, w, R, DT)
    tl.store(p_added + o_head * P * N + x[:, None] * N + n[None, :], added)
    tl.store(p_decay + o_head, decay)


@triton.jit
def state_pass_kernel(
    p_added, p_decay, p_start, p_sequences, p_read, p_end,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    START: tl.constexpr, KEEP: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """The look-ahead states before every tile and after every sequence, p_end fp32 [n, H, P, N]. Grid (n, H, P / BLOCK).

    KEEP: the fp32 states take the place of the increments in p_added. COPY: they go to p_read [tiles, H, P, N] in its dtype.
    """
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tile, count = tl.load(p_sequences + 2 * i_n).to(tl.int64), tl.load(p_sequences + 2 * i_n + 1)
    x = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    o_block = x[:, None] * N + tl.arange(0, N)[None, :]
    g = tl.zeros((BLOCK, N), tl.float32)
    if START:
        g = tl.load(p_start + (i_n * H + i_h) * P * N + o_block)
    for _ in range(0, count):
        o = (tile * H + i_h) * P * N + o_block
        added = tl.load(p_added + o)
        if KEEP:
            tl.store(p_added + o, g)
        if COPY:
            tl.store(p_read + o, g.to(p_read.dtype.element_ty))
        g = carry(g, tl.load(p_decay + tile * H + i_h), added)
        tile += 1
    tl.store(p_end + (i_n * H + i_h) * P * N + o_block, g)


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_z, p_scalars, p_angle, p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm,
    p_theta, p_g, p_tiles, p_out,
    s_q, s_k, s_v, s_z, s_angle_head, s_angle: tl.constexpr,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """The output rows of a tile, p_out [tokens of all, H, P]. Grid (tiles, H)."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    o_head = i_tile * H + i_h
    p_own = p_scalars + o_head * 4 * (L // R) + tl.arange(0, L // R)
    dt = tl.load(p_own + 3 * (L // R))
    angle = tile_angles(p_angle, i_h * s_angle_head, s_angle, first, left, C, S, L // R)
    theta = tl.load(p_theta + o_head * S + tl.arange(0, S))[None, :] + turns(angle, dt)
    cos, sin = cos_sin(theta)
    cos, sin = spread(cos, R), spread(sin, R)
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    m = (t < C) & (t < left)
    n, x = tl.arange(0, N), tl.arange(0, P)
    o_group, o_bias = rank * G * N + i_h // (H // G) * N, (i_h * R + rank) * N
    o_k, o_q = t * s_k + o_group, t * s_q + o_group
    p_q, p_k = p_q + first * s_q, p_k + first * s_k
    p_v, p_z = p_v + first * s_v + i_h * P, p_z + first * s_z + i_h * P
    k = turned_rows(p_k, o_k, m, p_k, o_k, m, o_k, p_k, p_k_bias, o_bias, cos, sin, N, S, HALF, DT, NORMED, DT)
    tl.debug_barrier()
    q = turned_rows(p_q, o_q, m, p_q, o_q, m, o_q, p_q, p_q_bias, o_bias, cos, sin, N, S, HALF, DT, NORMED, DT)
    o_mimo = ((i_h * R + rank) * P)[:, None] + x[None, :]
    v = tl.load(p_v + (t * s_v)[:, None] + x[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    v = values(v, p_mimo_x, o_mimo, MIMO)
    tl.debug_barrier()
    g = tl.load(p_g + o_head * P * N + x[:, None] * N + n[None, :])
    c, gamma, w = tl.load(p_own), tl.load(p_own + L // R), tl.load(p_own + 2 * (L // R))
    y = read_out(q, k, v, g, c, gamma, w, R, DT)
    tl.debug_barrier()
    z = tl.load(p_z + (t * s_z)[:, None] + x[None, :], mask=m[:, None], other=0.0).to(tl.float32)
    d = tl.load(p_d + i_h).to(tl.float32)
    out = output_rows(y, v, z, d, p_norm, i_h * P, p_mimo_z, p_mimo_o, o_mimo, R, MIMO, NORM)
    tokens = tl.arange(0, L // R)
    o_out = (tokens * H)[:, None] * P + x[None, :]
    tl.store(
        p_out + (first * H + i_h) * P + o_out,
        out.to(p_out.dtype.element_ty),
        mask=((tokens < C) & (tokens < left))[:, None],
    )


class Start(NamedTuple):
    """Where sequences begin that do not begin from nothing, fp32."""

    theta: Tensor  # [n, H, S]
    g: Tensor  # [n, H, P, N], the look-ahead state


class Run(NamedTuple):
    """What a forward pass leaves. Tiles lie sequence after sequence."""

    out: Tensor  # [tokens, H, P] in v's dtype
    theta: Tensor  # fp32 [tiles, H, S], the angle before every tile
    g: Tensor  # fp32 [tiles, H, P, N], the look-ahead state before every tile; with keep=False what the tiles add
    theta_end: Tensor  # fp32 [n, H, S], after every sequence
    h_end: Tensor  # fp32 [n, H, P, N]
    k_end: Tensor  # fp32 [n, R, H, N], the rotated key of every sequence's last token


def sizes_of(tokens: Tokens) -> Sizes:
    (B, T, H, P), (_, _, R, G, N) = tokens.v.shape, tokens.q.shape
    return Sizes(B, T, H, P, R, G, N, tokens.angles.shape[-1])


def token_rows(x: Tensor) -> Tensor:
    """[B, T, ...] to [B * T, ...] with every token's numbers side by side; a view where it can be."""
    x = x.flatten(0, 1)
    return x if x[0].is_contiguous() else x.contiguous()


def head_scalars(x: Tensor) -> Tensor:
    """[B, H, T] to fp32 [B * T, H]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1]).float().contiguous()


def run_tiles(
    tokens: Tokens, weights: Weights, pairing: Pairing, table: TileTable, start: Start | None, *, keep: bool
) -> Run:
    """The forward pass over the tiles of a table. Tokens as behind the door (q and k with R), under no autograd.

    The tokens of all B rows lie one after the other. With keep the fp32 states before the tiles are kept.
    """
    s = sizes_of(tokens)
    dtype, device = tokens.v.dtype, tokens.v.device
    C, L = table.size, block_rows(table.size, s.R)
    check_tile(s, C, dtype, device)
    q, k, v, z = (token_rows(x) for x in (tokens.q, tokens.k, tokens.v, tokens.z))
    angles = tokens.angles.flatten(
        0, 1
    ).contiguous()  # aligned as a ring's are: loads lay out what is summed over the tokens
    adt, dt, trap = (head_scalars(x) for x in (tokens.adt, tokens.dt, tokens.trap))
    q_bias, k_bias, D, mimo_x, mimo_z, mimo_o, norm = (x if x is None else x.contiguous() for x in weights)
    tiles, n = len(table.tiles), len(table.sequences)
    s_angle, s_angle_head = angles.stride(0), s.S if angles.shape[1] > 1 else 0
    pinned = launch_options(s.N, s.P, L)
    shape = dict(H=s.H, G=s.G, R=s.R, N=s.N, P=s.P, S=s.S, C=C, L=L, HALF=pairing == "half", MIMO=mimo_x is not None,
                 DT=TYPES[dtype])  # fmt: skip

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    turn, theta, theta_end = empty(tiles, s.H, s.S), empty(tiles, s.H, s.S), empty(n, s.H, s.S)
    scalars = empty(tiles, s.H, 4, L // s.R)
    scalars_kernel[(tiles, s.H)](
        adt,
        dt,
        trap,
        angles,
        table.tiles,
        scalars,
        turn,
        s_angle_head,
        s_angle,
        H=s.H,
        S=s.S,
        C=C,
        tokens=L // s.R,
        **pinned,
    )
    theta_start, g_start = (turn, turn) if start is None else start
    angle_pass_kernel[(n, s.H)](
        turn, theta_start, table.sequences, theta, theta_end, H=s.H, S=s.S, START=start is not None, num_warps=1,
        enable_fp_fusion=False,
    )  # fmt: skip
    g, decay, k_last = empty(tiles, s.H, s.P, s.N), empty(tiles, s.H), empty(tiles, s.R, s.H, s.N)
    increment_kernel[(tiles, s.H)](
        k, v, scalars, angles, k_bias, mimo_x, theta, table.tiles, g, decay, k_last,
        k.stride(0), v.stride(0), s_angle_head, s_angle, **shape, **pinned,
    )  # fmt: skip
    h_end = empty(n, s.H, s.P, s.N)
    copy = dtype != torch.float32
    read = empty(tiles, s.H, s.P, s.N, dtype=dtype) if copy else g
    block = min(STATE_BLOCK, s.P)
    state_pass_kernel[(n, s.H, s.P // block)](
        g, decay, g_start, table.sequences, read, h_end, H=s.H, P=s.P, N=s.N, BLOCK=block, START=start is not None,
        KEEP=keep or not copy, COPY=copy, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    out = empty(len(v), s.H, s.P, dtype=dtype)
    output_kernel[(tiles, s.H)](
        q, k, v, z, scalars, angles, q_bias, k_bias, D, mimo_x, mimo_z, mimo_o, norm, theta, read, table.tiles, out,
        q.stride(0), k.stride(0), v.stride(0), z.stride(0), s_angle_head, s_angle, **shape, NORM=norm is not None, **pinned,
    )  # fmt: skip
    return Run(out, theta, g, theta_end, h_end, k_last.index_select(0, table.last_tile))


def entry(tokens: Tokens, weights: Weights, table: TileTable, initial: State) -> Start:
    """The start after a 4-tuple state: g_0 = h + sigma_0 sum_r v[r] (x) k[r], sigma_0 from the sequence's first token."""
    first = table.tiles[table.sequences[:, 0].long(), 0].long()
    dt, trap = head_scalars(tokens.dt)[first], head_scalars(tokens.trap)[first]
    v = initial.v.float().unsqueeze(2)
    v = v if weights.mimo_x is None else v * weights.mimo_x.float()
    v = v * (dt * torch.sigmoid(-trap))[..., None, None]
    g = initial.h.float() + v.mT @ initial.k.float().transpose(1, 2)
    return Start(initial.theta.float().contiguous(), g.contiguous())


class _Scan(torch.autograd.Function):
    """The scan with its gradient. Beside its arguments it saves, per tile and head, 4 (S + P N) bytes: the angle and the fp32
    state before the tile. At N = 128, P = 64, S = 32 that is 514 bytes per token and head with 64 tokens a tile (SISO) and
    2056 with 16 (MIMO, R = 4), and nothing else per head and token.
    """

    @staticmethod
    def forward(ctx: Any, settings: dict[str, Any], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        tokens, weights, initial = _named(tensors)
        table = _table(tokens, settings["cu_seqlens"], settings["chunk_size"])
        start = None if initial is None else entry(tokens, weights, table, initial)
        run = run_tiles(tokens, weights, settings["pairing"], table, start, keep=any(ctx.needs_input_grad))
        if any(ctx.needs_input_grad):
            ctx.settings = settings
            ctx.save_for_backward(*tensors, run.theta, run.g)
        v_end = tokens.v.flatten(0, 1).index_select(0, table.last).float()
        return run.out.view(tokens.v.shape), run.theta_end, run.h_end, run.k_end, v_end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        from .scan_backward import scan_backward

        *tensors, theta, g = ctx.saved_tensors
        tokens, weights, initial = _named(tensors)
        d_tokens, d_weights, d_state = scan_backward(
            tokens, weights, **ctx.settings, initial_state=initial, boundary_theta=theta, boundary_g=g, dout=grads[0],
            dstate=State(*grads[1:]),
        )  # fmt: skip
        return (None, *d_tokens, *d_weights, *(d_state or (None,) * 4))


def _named(tensors: Any) -> tuple[Tokens, Weights, State | None]:
    return Tokens(*tensors[:8]), Weights(*tensors[8:15]), None if tensors[15] is None else State(*tensors[15:])


def _table(tokens: Tokens, cu_seqlens: Tensor | None, size: int) -> TileTable:
    B, T = tokens.v.shape[:2]
    offsets = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    return tile_table(offsets, size, tokens.v.device)


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
    """dispatch.mamba3_scan with checked arguments. Raises a ValueError for what the tile kernels do not take."""
    settings = dict(pairing=pairing, chunk_size=chunk_size, cu_seqlens=cu_seqlens)
    out, *state = _Scan.apply(settings, *tokens, *weights, *(initial_state or (None,) * 4))
    return out, State(*state) if return_state else None
