"""The output stage backwards (SPEC section 7): from the gradient of the output to the gradient of y, z and its weights.

y, before norm and gate, is computed again from the tokens and the state before the tile.
"""

import triton
import triton.language as tl

from .backward_tile import (
    kept,
    load_cos_sin,
    load_decay,
    load_halves,
    load_ranks,
    load_rotated,
    load_values,
    over_ranks,
    over_tokens,
    product,
    store_halves,
    store_ranks,
)
from .chunk_tile import NORM_EPS, last_entry, sigmoid, spread


@triton.jit
def tile_output(
    q1, q2, k1, k2, x, c, gamma, w, p_g,
    N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    DT: tl.constexpr,
):  # fmt: skip
    """y [L, P] without the D skip; p_g [P, N] is the look-ahead state before the tile."""
    decay, same = kept(c, R, L)
    weight = tl.where(same, spread(gamma, R)[None, :], decay * spread(w, R)[None, :])
    scores = product(q1, tl.trans(k1), DT) + product(q2, tl.trans(k2), DT)
    p = tl.arange(0, P)
    g1, g2 = load_halves(p_g, p * N, p < P, N, NH, HALF)
    read = product(q1, tl.trans(g1), DT) + product(q2, tl.trans(g2), DT)
    return product(scores * weight, x, DT) + tl.exp(spread(c, R))[:, None] * read


@triton.jit
def norm_gradient(y, dn, p_norm, p_part, P: tl.constexpr):
    """Gradient of y from the gradient of the normalised y; writes the tile's part of the weight's."""
    p = tl.arange(0, P)
    scale = tl.rsqrt(tl.sum(y * y, 1) / P + NORM_EPS)
    unit = y * scale[:, None]
    tl.store(p_part + p, tl.sum(dn * unit, 0))
    e = dn * tl.load(p_norm + p)[None, :]
    return scale[:, None] * (e - unit * (tl.sum(e * unit, 1) / P)[:, None])


@triton.jit
def gate_gradient(
    y, p_z, s_z, p_dout, s_dout, p_dz, s_dz, p_mimo_z, p_mimo_o, p_norm, p_part_z, p_part_o, p_part_norm, count,
    P: tl.constexpr, R: tl.constexpr, C: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Gradient of y [L, P]; writes that of z and the tile's parts of those of mimo_z, mimo_o and the norm's weight."""
    z, dout = load_values(p_z, s_z, count, P, C), load_values(p_dout, s_dout, count, P, C)
    z_rows, d = spread(z, R), spread(dout, R)
    logit, upon = z_rows, d
    if MIMO:
        mimo_z = load_ranks(p_mimo_z, P, R, C * R)
        logit, upon = z_rows * mimo_z, d * load_ranks(p_mimo_o, P, R, C * R)
    sig = sigmoid(logit)
    gate, slope = logit * sig, sig * (1.0 + logit * (1.0 - sig))
    dy, n = upon * gate, y
    if NORM:
        p = tl.arange(0, P)
        n = y * tl.rsqrt(tl.sum(y * y, 1) / P + NORM_EPS)[:, None] * tl.load(p_norm + p)[None, :]
        dy = norm_gradient(y, dy, p_norm, p_part_norm, P)
    d_logit = upon * n * slope
    if MIMO:
        store_ranks(p_part_z, over_tokens(d_logit * z_rows, R), P, R)
        store_ranks(p_part_o, over_tokens(d * n * gate, R), P, R)
        d_logit = d_logit * mimo_z
    i, p = tl.arange(0, C), tl.arange(0, P)
    tl.store(p_dz + i[:, None] * s_dz + p[None, :], over_ranks(d_logit, R), mask=(i < count)[:, None])
    return dy


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_z, p_adt, p_dt, p_trap, p_angles, p_q_bias, p_k_bias, p_D, p_mimo_x, p_mimo_z, p_mimo_o, p_norm,
    p_dout, p_theta, p_g, p_start, p_end,
    p_dy, p_dz, p_dg, p_total, p_part_D, p_part_z, p_part_o, p_part_norm,
    s_q, s_k, s_v, s_z, s_angles, s_angles_head, T, H, size,
    G: tl.constexpr, N: tl.constexpr, NH: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """One tile of one head. Writes dy [L, P] in DT, dz, and what the tile adds to the gradient of its entry state.

    That is dY^T diag(exp c) Q [P, N], with the tile's sum of a in p_total: backward_carry takes them over the tiles.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, head = pid // H, pid % H
    group, L = head // (H // G), C * R
    start = tl.load(p_start + tile).to(tl.int64)
    left = (tl.load(p_end + tile) - start).to(tl.int32)
    count = tl.minimum(left, size)
    o_scalar = (start // T * H + head) * T + start % T
    o_p = start * H * P + head * P
    c, dt, gamma, w = load_decay(p_adt + o_scalar, p_dt + o_scalar, p_trap + o_scalar, count, left, C)
    p_turns = p_angles + start * s_angles + head * s_angles_head
    cos, sin = load_cos_sin(p_turns, s_angles, p_theta + pid * S, dt, count, S, C, NH)
    p_query, p_key = p_q + start * s_q + group * N, p_k + start * s_k + group * N
    q1, q2 = load_rotated(p_query, s_q, G * N, p_q_bias + head * R * N, cos, sin, count, N, NH, HALF, R, L)
    k1, k2 = load_rotated(p_key, s_k, G * N, p_k_bias + head * R * N, cos, sin, count, N, NH, HALF, R, L)
    x = spread(load_values(p_v + start * s_v + head * P, s_v, count, P, C), R)
    if MIMO:
        x = x * load_ranks(p_mimo_x + head * R * P, P, R, L)

    y = tile_output(q1, q2, k1, k2, x, c, gamma, w, p_g + pid * P * N, N, NH, HALF, P, R, L, DT)
    dy = gate_gradient(
        y + tl.load(p_D + head) * x, p_z + start * s_z + head * P, s_z, p_dout + o_p, H * P, p_dz + o_p, H * P,
        p_mimo_z + head * R * P, p_mimo_o + head * R * P, p_norm + head * P,
        p_part_z + pid * R * P, p_part_o + pid * R * P, p_part_norm + pid * P, count, P, R, C, MIMO, NORM,
    )  # fmt: skip
    i, p = tl.arange(0, L), tl.arange(0, P)
    tl.store(p_dy + pid * L * P + i[:, None] * P + p[None, :], dy)
    tl.store(p_part_D + pid, tl.sum(tl.sum(dy * x, 1), 0))
    tl.store(p_total + pid, last_entry(c, C))
    dy_t, scale = tl.trans(dy), tl.exp(spread(c, R))[:, None]
    d1, d2 = product(dy_t, q1 * scale, DT), product(dy_t, q2 * scale, DT)
    store_halves(p_dg + pid * P * N, p * N, p < P, d1, d2, N, NH, HALF)
