"""The output stage backwards (SPEC section 7): from the gradient of the output to the gradient of y, z and its weights.

y, before norm and gate, is computed again from the tokens and the state before the tile.
"""

import triton
import triton.language as tl

from .backward_tile import (
    contraction,
    load_cos_sin,
    load_rank_values,
    load_ranks,
    load_rotated,
    load_scalars,
    load_state,
    load_values,
    over_ranks,
    over_tokens,
    product,
    product_onto,
    store_pairs,
    store_ranks,
    store_rest,
    weight,
)
from .chunk_tile import NORM_EPS, last_entry, sigmoid, spread


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
    P: tl.constexpr, R: tl.constexpr, tokens: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Gradient of y [L, P]; writes that of z and the tile's parts of those of mimo_z, mimo_o and the norm's weight."""
    z, dout = load_values(p_z, s_z, count, P, tokens), load_values(p_dout, s_dout, count, P, tokens)
    z_rows, d = spread(z, R), spread(dout, R)
    logit, upon = z_rows, d
    if MIMO:
        mimo_z = load_ranks(p_mimo_z, P, R, tokens * R)
        logit, upon = z_rows * mimo_z, d * load_ranks(p_mimo_o, P, R, tokens * R)
    sig = sigmoid(logit)
    gate, slope = logit * sig, sig * (1.0 + logit * (1.0 - sig))
    t, p = tl.arange(0, tokens), tl.arange(0, P)
    n = y
    if NORM:
        n = y * tl.rsqrt(tl.sum(y * y, 1) / P + NORM_EPS)[:, None] * tl.load(p_norm + p)[None, :]
    d_logit = upon * n * slope
    if MIMO:
        store_ranks(p_part_z, over_tokens(d_logit * z_rows, R), P, R)
        store_ranks(p_part_o, over_tokens(d * n * gate, R), P, R)
        d_logit = d_logit * mimo_z
    tl.store(p_dz + t[:, None] * s_dz + p[None, :], over_ranks(d_logit, R), mask=(t < count)[:, None])
    if NORM:
        return norm_gradient(y, upon * gate, p_norm, p_part_norm, P)
    else:
        return upon * gate


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_z, p_adt, p_dt, p_trap, p_angles, p_q_bias, p_k_bias, p_D, p_mimo_x, p_mimo_z, p_mimo_o, p_norm,
    p_dout, p_theta, p_g, p_tiles,
    p_dy, p_dz, p_reader, p_part_z, p_part_o, p_part_norm,
    s_q, s_k, s_v, s_z, s_angles, s_angles_head,
    H: tl.constexpr, G: tl.constexpr, N: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """One tile of one head: dy [L, P] in DT, dz, and the tile's parts of the weights' gradients.

    p_reader [tokens of all, H] gets dy . (what y read from the state before the tile): the gradient of c as a reader.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, head = pid // H, pid % H
    group = head // (H // G)
    tokens: tl.constexpr = L // R
    start, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
    count = tl.minimum(left, C)
    o_p = start * H * P + head * P
    dt, c, gamma, w = load_scalars(p_adt, p_dt, p_trap, start, left, head, H, C, tokens)
    p_turns = p_angles + start * s_angles + head * s_angles_head
    cos, sin = load_cos_sin(p_turns, s_angles, p_theta + pid * S, dt, count, S, max(S, 16))
    p_query, p_key = p_q + start * s_q + group * N, p_k + start * s_k + group * N
    q1, q2, q3 = load_rotated(p_query, s_q, G * N, p_q_bias + head * R * N, cos, sin, count, N, S, HALF, R, L, DT)
    k1, k2, k3 = load_rotated(p_key, s_k, G * N, p_k_bias + head * R * N, cos, sin, count, N, S, HALF, R, L, DT)
    x = load_rank_values(p_v + start * s_v + head * P, s_v, p_mimo_x + head * R * P, count, P, R, L, MIMO)

    scores = contraction(q1, q2, q3, k1, k2, k3, N > 2 * S, DT) * weight(c, gamma, w, R, L, False)
    g1, g2, g3 = load_state(p_g + pid * P * N, N, S, HALF, P, DT)
    since = tl.exp(spread(c, R))[:, None]
    read = since * contraction(q1, q2, q3, g1, g2, g3, N > 2 * S, DT)
    y = product_onto(read, scores, x, DT) + tl.load(p_D + head) * x
    dy = gate_gradient(
        y, p_z + start * s_z + head * P, s_z, p_dout + o_p, H * P, p_dz + o_p, H * P,
        p_mimo_z + head * R * P, p_mimo_o + head * R * P, p_norm + head * P,
        p_part_z + pid * R * P, p_part_o + pid * R * P, p_part_norm + pid * P, count, P, R, tokens, MIMO, NORM,
    )  # fmt: skip
    i, t, p = tl.arange(0, L), tl.arange(0, tokens), tl.arange(0, P)
    tl.store(p_dy + pid * L * P + i[:, None] * P + p[None, :], dy)
    tl.store(p_reader + (start + t) * H + head, over_ranks(tl.sum(dy * read, 1), R), mask=t < count)


@triton.jit
def entry_kernel(
    p_q, p_v, p_adt, p_dt, p_trap, p_angles, p_q_bias, p_mimo_x, p_theta, p_dy, p_tiles, p_dg, p_total, p_part_D,
    s_q, s_v, s_angles, s_angles_head,
    H: tl.constexpr, G: tl.constexpr, N: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """What one tile of one head adds to the gradient of the state before it, dY^T diag(exp c) Q [P, N], and its sum of a.

    carry_kernel takes the two over the tiles. Also the tile's part of the gradient of D.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, head = pid // H, pid % H
    group = head // (H // G)
    tokens: tl.constexpr = L // R
    start, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
    count = tl.minimum(left, C)
    dt, c, _, _ = load_scalars(p_adt, p_dt, p_trap, start, left, head, H, C, tokens)
    p_turns = p_angles + start * s_angles + head * s_angles_head
    cos, sin = load_cos_sin(p_turns, s_angles, p_theta + pid * S, dt, count, S, max(S, 16))
    p_query = p_q + start * s_q + group * N
    q1, q2, q3 = load_rotated(p_query, s_q, G * N, p_q_bias + head * R * N, cos, sin, count, N, S, HALF, R, L, DT)
    i, p = tl.arange(0, L), tl.arange(0, P)
    dy = tl.load(p_dy + pid * L * P + i[:, None] * P + p[None, :]).to(tl.float32)
    dy_t, p_state = tl.trans((dy * tl.exp(spread(c, R))[:, None]).to(DT)), p_dg + pid * P * N
    store_pairs(p_state, p * N, p < P, product(dy_t, q1, DT), product(dy_t, q2, DT), N, S, HALF)
    if N > 2 * S:
        store_rest(p_state, p * N, p < P, product(dy_t, q3, DT), N, S, HALF)
    tl.store(p_total + pid, last_entry(c, tokens))
    x = load_rank_values(p_v + start * s_v + head * P, s_v, p_mimo_x + head * R * P, count, P, R, L, MIMO)
    tl.store(p_part_D + pid, tl.sum(tl.sum(dy * x, 1), 0))
