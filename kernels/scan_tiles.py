"""The kernels of the scan's forward pass (section 6 of the layer's specification); scan_forward.py launches them.

First the sums that run through a tile token after token (prefix_kernel) and the angles at the tiles' starts (angle_pass_kernel). Then
either all tiles at once, with the states passed between them through memory: what each tile adds to the state, the states at the
tiles' starts, one multiply-add a chunk, the output rows; or, where sequences and heads are many enough to fill the GPU,
walk_kernel, which takes one head of one sequence through its tiles with the state in registers. Both compute a tile with the functions
of chunk_tile.py, and give the same bits. Rotated q and k leave the registers only for a sequence's last tile, which a slot goes on from.
"""

import triton
import triton.language as tl

from .chunk_tile import (
    carry,
    cos_sin,
    increment,
    output_rows,
    read_out,
    reduce_angle,
    score_weight,
    spread,
    turn_on,
    turned_rows,
    values,
    weights,
)

SCALARS = tl.constexpr(3)  # numbers of a token and head that a tile reads: c, gamma, w


@triton.jit
def prefix_kernel(
    p_adt, p_dt, p_trap, p_angle, p_tiles, p_scalars, p_turns, p_turn, s_angle_head, s_angle,
    H: tl.constexpr, S: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """c (the sum of a since the tile's start), gamma and w of a tile's tokens, p_scalars fp32 [tiles, H, 3, tokens]; the angle since
    the tile's start with every token, p_turns fp32 [tokens of all, H, S], and with all of them, p_turn fp32 [tiles, H, S].

    adt, dt, trap fp32 [tokens of all, H]. Grid (tiles, H / HEADS)."""
    i_tile = tl.program_id(0).to(tl.int64)
    i_h, j = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, S)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    count = tl.minimum(left, C)
    p_own = p_scalars + (i_tile * H + i_h) * SCALARS * tokens
    p_adt, p_dt, p_trap = p_adt + first * H + i_h, p_dt + first * H + i_h, p_trap + first * H + i_h
    p_angle += first * s_angle + i_h[:, None] * s_angle_head + j[None, :]
    p_turns += (first * H + i_h[:, None]) * S + j[None, :]
    o_unit = (i_tile * H + i_h[:, None]) * S + j[None, :]
    c, turn = tl.zeros((HEADS,), tl.float32), tl.zeros((HEADS, S), tl.float32)
    m_heads = i_h < H
    dt, trap = tl.load(p_dt, mask=m_heads, other=0.0), tl.load(p_trap, mask=m_heads, other=0.0)
    for t in range(0, tokens):
        m = m_heads & (i_h * 0 + t < count)
        m_next = m & (i_h * 0 + t + 1 < left)
        a = tl.load(p_adt + t * H, mask=m, other=0.0)
        dt_next = tl.load(p_dt + (t + 1) * H, mask=m_next, other=0.0)
        trap_next = tl.load(p_trap + (t + 1) * H, mask=m_next, other=0.0)
        angle = tl.load(p_angle + t * s_angle, mask=m[:, None], other=0.0).to(tl.float32)
        c = c + a
        dt = tl.where(m, dt, 0.0)
        gamma, w = weights(dt, trap, dt_next, trap_next)
        turn = turn_on(turn, angle, dt[:, None])
        tl.store(p_own + t, c, mask=m_heads)
        tl.store(p_own + tokens + t, gamma, mask=m_heads)
        tl.store(p_own + 2 * tokens + t, w, mask=m_heads)
        tl.store(p_turns + t * H * S, turn, mask=m[:, None])
        dt, trap = dt_next, trap_next
    tl.store(p_turn + o_unit, turn, mask=m_heads[:, None])


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
def tile_rotation(p_theta, p_turns, first, left, unit, i_h, H: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
                  tokens: tl.constexpr, R: tl.constexpr):  # fmt: skip
    """Cosines and sines of a tile's rows [tokens * R, S]; unit: the number of tile and head."""
    u, j = tl.arange(0, tokens), tl.arange(0, S)
    m = (u < C) & (u < left)
    turn = tl.load(p_turns + ((first + u) * H + i_h)[:, None] * S + j[None, :], mask=m[:, None], other=0.0)
    cos, sin = cos_sin(tl.load(p_theta + unit * S + j)[None, :] + turn)
    return spread(cos, R), spread(sin, R)


@triton.jit
def tile_scalars(p_scalars, unit, R: tl.constexpr, L: tl.constexpr):
    """c, gamma and w [L] of a tile's rows, and c of its last token."""
    p = p_scalars + unit * SCALARS * (L // R) + tl.arange(0, L) // R
    total = tl.load(p_scalars + unit * SCALARS * (L // R) + L // R - 1)
    return tl.load(p), tl.load(p + L // R), tl.load(p + 2 * (L // R)), total


@triton.jit
def tile_keys(p_k, p_bias, cos, sin, first, left, i_h, s_k, H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
              S: tl.constexpr, C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, DT: tl.constexpr):  # fmt: skip
    """Rotated rows of q or k of a tile, [L, N] in DT; blank rows are finite."""
    t, rank = tl.arange(0, L) // R, tl.arange(0, L) % R
    m = (t < C) & (t < left)
    o_row = t * s_k + rank * G * N + i_h // (H // G) * N
    return turned_rows(p_k + first * s_k, o_row, m, p_bias, (i_h * R + rank) * N, cos, sin, N, S, HALF, DT)


@triton.jit
def tile_values(p_v, p_mimo, first, left, i_h, s_v, P: tl.constexpr, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
                MIMO: tl.constexpr, DT: tl.constexpr):  # fmt: skip
    """Values of the ranks of a tile, [L, P] in DT; blank rows are 0."""
    t, rank, x = tl.arange(0, L) // R, tl.arange(0, L) % R, tl.arange(0, P)
    m = (t < C) & (t < left)
    v = tl.load(p_v + first * s_v + i_h * P + (t * s_v)[:, None] + x[None, :], mask=m[:, None], other=0.0)
    return values(v.to(tl.float32), p_mimo, ((i_h * R + rank) * P)[:, None] + x[None, :], MIMO).to(DT)


@triton.jit
def keep_keys(p_keys, k, i_n, i_h, H: tl.constexpr):
    """The rotated keys of a sequence's last tile, p_keys [n, H, L, N]."""
    L: tl.constexpr = k.shape[0]
    N: tl.constexpr = k.shape[1]
    tl.store(p_keys + (i_n * H + i_h) * L * N + tl.arange(0, L)[:, None] * N + tl.arange(0, N)[None, :], k)


@triton.jit
def store_rows(
    y, p_v, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_out, first, left, i_h, s_v, s_z,
    H: tl.constexpr, P: tl.constexpr, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """From y [P, L] of a tile's rows to its output rows, p_out [tokens of all, H, P]."""
    t, rank, x = tl.arange(0, L) // R, tl.arange(0, L) % R, tl.arange(0, P)
    m = ((t < C) & (t < left))[None, :]
    p_v, p_z = p_v + first * s_v + i_h * P, p_z + first * s_z + i_h * P
    o_mimo = ((i_h * R + rank) * P)[None, :] + x[:, None]
    v = tl.load(p_v + (t * s_v)[None, :] + x[:, None], mask=m, other=0.0).to(tl.float32)
    z = tl.load(p_z + (t * s_z)[None, :] + x[:, None], mask=m, other=0.0).to(tl.float32)
    d = tl.load(p_d + i_h).to(tl.float32)
    out = output_rows(
        y, values(v, p_mimo_x, o_mimo, MIMO), z, d, p_norm, i_h * P, p_mimo_z, p_mimo_o, o_mimo, R, MIMO, NORM
    )
    u = tl.arange(0, L // R)
    o_out = (u * H)[None, :] * P + x[:, None]
    tl.store(
        p_out + (first * H + i_h) * P + o_out, out.to(p_out.dtype.element_ty), mask=((u < C) & (u < left))[None, :]
    )


@triton.jit
def increment_kernel(
    p_k, p_v, p_scalars, p_turns, p_bias, p_mimo, p_theta, p_tiles, p_ends, p_added, p_decay, p_keys, s_k, s_v,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """What a tile adds to the state, p_added fp32 [tiles, H, P, N], and its decay, p_decay fp32 [tiles, H]; of the tiles that end a
    sequence, which p_ends [tiles] numbers (-1 for the others), the rotated keys, p_keys [n, H, L, N]. Grid (tiles, H)."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    unit = i_tile * H + i_h
    cos, sin = tile_rotation(p_theta, p_turns, first, left, unit, i_h, H, C, S, L // R, R)
    k = tile_keys(p_k, p_bias, cos, sin, first, left, i_h, s_k, H, G, R, N, S, C, L, HALF, DT)
    end = tl.load(p_ends + i_tile).to(tl.int64)
    if end >= 0:
        keep_keys(p_keys, k, end, i_h, H)
    v = tile_values(p_v, p_mimo, first, left, i_h, s_v, P, R, C, L, MIMO, DT)
    c, _, w, total = tile_scalars(p_scalars, unit, R, L)
    added = increment(k, v, total, c, w, DT)
    n, x = tl.arange(0, N), tl.arange(0, P)
    tl.store(p_added + unit * P * N + x[:, None] * N + n[None, :], added)
    tl.store(p_decay + unit, tl.exp(total))


@triton.jit
def state_pass_kernel(
    p_added, p_decay, p_start, p_sequences, p_read, p_last, p_end,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    START: tl.constexpr, KEEP: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """The look-ahead states before every sequence's last tile, p_last, and after every sequence, p_end, fp32 [n, H, P, N].

    KEEP: the fp32 states take the place of the increments in p_added. COPY: the states before every tile go to p_read
    [tiles, H, P, N] in its dtype. Grid (n, H, P / BLOCK).
    """
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tile, count = tl.load(p_sequences + 2 * i_n).to(tl.int64), tl.load(p_sequences + 2 * i_n + 1)
    x = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    o_block = x[:, None] * N + tl.arange(0, N)[None, :]
    o_own = (i_n * H + i_h) * P * N + o_block
    g = tl.zeros((BLOCK, N), tl.float32)
    if START:
        g = tl.load(p_start + o_own)
    for i in range(0, count):
        o = (tile * H + i_h) * P * N + o_block
        added = tl.load(p_added + o)
        if KEEP:
            tl.store(p_added + o, g)
        if COPY:
            tl.store(p_read + o, g.to(p_read.dtype.element_ty))
        if i == count - 1:
            tl.store(p_last + o_own, g)
        g = carry(g, tl.load(p_decay + tile * H + i_h), added)
        tile += 1
    tl.store(p_end + o_own, g)


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_z, p_scalars, p_turns, p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm,
    p_theta, p_g, p_tiles, p_out, s_q, s_k, s_v, s_z,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """The output rows of a tile, p_out [tokens of all, H, P]; p_g [tiles, H, P, N] in DT. Grid (tiles, H)."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, left = tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)
    unit = i_tile * H + i_h
    cos, sin = tile_rotation(p_theta, p_turns, first, left, unit, i_h, H, C, S, L // R, R)
    k = tile_keys(p_k, p_k_bias, cos, sin, first, left, i_h, s_k, H, G, R, N, S, C, L, HALF, DT)
    tl.debug_barrier()
    q = tile_keys(p_q, p_q_bias, cos, sin, first, left, i_h, s_q, H, G, R, N, S, C, L, HALF, DT)
    tl.debug_barrier()
    v = tile_values(p_v, p_mimo_x, first, left, i_h, s_v, P, R, C, L, MIMO, DT)
    n, x = tl.arange(0, N), tl.arange(0, P)
    g = tl.load(p_g + unit * P * N + x[:, None] * N + n[None, :])
    tl.debug_barrier()
    c, gamma, w, _ = tile_scalars(p_scalars, unit, R, L)
    t = tl.arange(0, L) // R
    y = read_out(q, k, v, g, c, score_weight(c, t, c, t, gamma, w), DT)
    tl.debug_barrier()
    store_rows(
        y, p_v, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_out, first, left, i_h, s_v, s_z, H, P, R, C, L, MIMO, NORM
    )  # fmt: skip


@triton.jit
def walk_kernel(
    p_q, p_k, p_v, p_z, p_scalars, p_turns, p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm,
    p_theta, p_start, p_tiles, p_sequences, p_g, p_last, p_end, p_keys, p_out, s_q, s_k, s_v, s_z,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
    START: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """What increment_kernel, state_pass_kernel and output_kernel do, for one head of one sequence, tile after tile.

    KEEP: the fp32 states before the tiles go to p_g [tiles, H, P, N]. Grid (n, H).
    """
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tile, count = tl.load(p_sequences + 2 * i_n).to(tl.int64), tl.load(p_sequences + 2 * i_n + 1)
    n, x, t = tl.arange(0, N), tl.arange(0, P), tl.arange(0, L) // R
    o_state = x[:, None] * N + n[None, :]
    o_own = (i_n * H + i_h) * P * N + o_state
    g = tl.zeros((P, N), tl.float32)
    if START:
        g = tl.load(p_start + o_own)
    for i in tl.range(0, count, disable_licm=True):  # else all addresses stay in registers
        first, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
        unit = tile * H + i_h
        if KEEP:
            tl.store(p_g + unit * P * N + o_state, g)
        cos, sin = tile_rotation(p_theta, p_turns, first, left, unit, i_h, H, C, S, L // R, R)
        k = tile_keys(p_k, p_k_bias, cos, sin, first, left, i_h, s_k, H, G, R, N, S, C, L, HALF, DT)
        tl.debug_barrier()
        q = tile_keys(p_q, p_q_bias, cos, sin, first, left, i_h, s_q, H, G, R, N, S, C, L, HALF, DT)
        tl.debug_barrier()
        v = tile_values(p_v, p_mimo_x, first, left, i_h, s_v, P, R, C, L, MIMO, DT)
        if i == count - 1:
            tl.store(p_last + o_own, g)
            keep_keys(p_keys, k, i_n, i_h, H)
        tl.debug_barrier()
        c, gamma, w, total = tile_scalars(p_scalars, unit, R, L)
        y = read_out(q, k, v, g.to(DT), c, score_weight(c, t, c, t, gamma, w), DT)
        tl.debug_barrier()
        store_rows(
            y, p_v, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_out, first, left, i_h, s_v, s_z, H, P, R, C, L, MIMO, NORM
        )  # fmt: skip
        tl.debug_barrier()
        g = carry(g, tl.exp(total), increment(k, v, total, c, w, DT))
        tile += 1
    tl.store(p_end + o_own, g)
