"""The gradients of queries, keys and values inside a tile, with what passes through the states at its two ends."""

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
from .chunk_tile import last_entry, spread


@triton.jit
def inside(q1, q2, k1, k2, x, dy, c, gamma, w, R: tl.constexpr, L: tl.constexpr, DT: tl.constexpr):
    """What the tile's tokens give each other (SPEC section 7).

    Returns dq, dk (halves), dx, and per token [C]: the sum over the earlier tokens of the gradient of log L_ts, the
    strict part of dw, and the diagonal's dgamma. The sums are taken from one fp32 matrix, so that they cancel in da.
    """
    decay, same = kept(c, R, L)
    w_row, gamma_row = spread(w, R)[None, :], spread(gamma, R)[None, :]
    scores = product(q1, tl.trans(k1), DT) + product(q2, tl.trans(k2), DT)
    d_scores = product(dy, tl.trans(x), DT)
    both = scores * d_scores
    strict = decay * both
    as_query = over_ranks(tl.sum(strict * w_row, 1), R)
    as_key = over_ranks(tl.sum(strict, 0), R)
    diagonal = over_ranks(tl.sum(tl.where(same, both, 0.0), 0), R)
    weight = tl.where(same, gamma_row, decay * w_row)
    d_scores, scores = d_scores * weight, tl.trans(scores * weight)
    dq1, dq2 = product(d_scores, k1, DT), product(d_scores, k2, DT)
    d_scores = tl.trans(d_scores)
    dk1, dk2 = product(d_scores, q1, DT), product(d_scores, q2, DT)
    return dq1, dq2, dk1, dk2, product(scores, dy, DT), as_query, as_key, diagonal


@triton.jit
def through_states(
    q1, q2, k1, k2, x, dy, c, w, p_g, p_dg,
    N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr, P: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    DT: tl.constexpr,
):  # fmt: skip
    """What the tokens read from the state before the tile, g, and write to the one after it, whose gradient is dg.

    Returns dq, dk (halves), dx; per token [C] the gradient of c as a reader and dw as a writer; and exp(c_last) <g, dg>.
    """
    p = tl.arange(0, P)
    g1, g2 = load_halves(p_g, p * N, p < P, N, NH, HALF)
    d1, d2 = load_halves(p_dg, p * N, p < P, N, NH, HALF)
    total = last_entry(c, C)
    held = tl.exp(total) * (tl.sum(tl.sum(g1 * d1, 1), 0) + tl.sum(tl.sum(g2 * d2, 1), 0))
    since = tl.exp(spread(c, R))[:, None]
    dq1, dq2 = since * product(dy, g1, DT), since * product(dy, g2, DT)
    reader = over_ranks(tl.sum(q1 * dq1, 1) + tl.sum(q2 * dq2, 1), R)
    until = tl.exp(tl.minimum(total - c, 0.0))
    dk1, dk2 = product(x, d1, DT), product(x, d2, DT)
    writer = until * over_ranks(tl.sum(k1 * dk1, 1) + tl.sum(k2 * dk2, 1), R)
    scale = spread(w * until, R)[:, None]
    dx = scale * (product(k1, tl.trans(d1), DT) + product(k2, tl.trans(d2), DT))
    return dq1, dq2, scale * dk1, scale * dk2, dx, reader, writer, held


@triton.jit
def store_tokens(p_da, p_dgamma, p_dsigma, as_query, as_key, diagonal, reader, writer, held, w, count, C: tl.constexpr):
    """da, dgamma and dsigma of the tile's tokens; dsigma belongs to dt and trap of the following token."""
    i = tl.arange(0, C)
    written = w * writer
    dc = as_query + reader - w * as_key - written
    dc += tl.where(i == C - 1, held + tl.sum(written, 0), 0.0)
    dw = as_key + writer
    tl.store(p_da + i, tl.cumsum(dc, 0, reverse=True), mask=i < count)
    tl.store(p_dgamma + i, dw + diagonal, mask=i < count)
    tl.store(p_dsigma + i, dw, mask=i < count)


@triton.jit
def store_values(p_dv, p_mimo_x, p_part_x, p_dv_final, p_v, s_v, dx, last, count,
    P: tl.constexpr, R: tl.constexpr, C: tl.constexpr, s_dv, MIMO: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """dv of the tile's tokens from that of their ranks [L, P], and the tile's part of the gradient of mimo_x."""
    i, p = tl.arange(0, C), tl.arange(0, P)
    if MIMO:
        v = spread(load_values(p_v, s_v, count, P, C), R)
        store_ranks(p_part_x, over_tokens(dx * v, R), P, R)
        dx = dx * load_ranks(p_mimo_x, P, R, C * R)
    dv = over_ranks(dx, R)
    if FINAL:
        dv += tl.where((i == last)[:, None], tl.load(p_dv_final + p)[None, :], 0.0)
    tl.store(p_dv + i[:, None] * s_dv + p[None, :], dv, mask=(i < count)[:, None])


@triton.jit
def turn_back(dq1, dq2, dk1, dk2, q1, q2, k1, k2, cos, sin, p_dtheta,
    S: tl.constexpr, NH: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Gradients before the rotation; writes the sums over the tile's later tokens of the angles' gradients [C, S]."""
    i, j = tl.arange(0, C), tl.arange(0, NH)
    dtheta = tl.cumsum(over_ranks(q1 * dq2 - q2 * dq1 + k1 * dk2 - k2 * dk1, R), 0, reverse=True)
    tl.store(p_dtheta + i[:, None] * S + j[None, :], dtheta, mask=(j < S)[None, :])
    cos, sin = spread(cos, R), spread(sin, R)
    return dq1 * cos + dq2 * sin, dq2 * cos - dq1 * sin, dk1 * cos + dk2 * sin, dk2 * cos - dk1 * sin


@triton.jit
def chunk_kernel(
    p_q, p_k, p_v, p_adt, p_dt, p_trap, p_angles, p_q_bias, p_k_bias, p_D, p_mimo_x,
    p_theta, p_g, p_dg, p_dy, p_dk_final, p_dv_final, p_start, p_end, p_sequence,
    p_part_q, p_part_k, p_dv, p_da, p_dgamma, p_dsigma, p_dtheta, p_part_q_bias, p_part_k_bias, p_part_x,
    s_q, s_k, s_v, s_angles, s_angles_head, s_part, T, H, size,
    G: tl.constexpr, N: tl.constexpr, NH: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, FINAL: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """One tile of HEADS heads of one group, in order: dq and dk are summed over them, all else is written per head.

    p_part_q, p_part_k [H / G / HEADS, tokens, R, G, N]: the sums of one program of a group each, s_part apart.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, split = pid // (H // HEADS), pid % (H // HEADS)
    share = H // G // HEADS
    group, L = split // share, C * R
    start = tl.load(p_start + tile).to(tl.int64)
    left = (tl.load(p_end + tile) - start).to(tl.int32)
    count = tl.minimum(left, size)
    last = tl.where(left <= size, left - 1, -1)
    i = tl.arange(0, L)
    sum_q1, sum_q2 = tl.zeros((L, NH), tl.float32), tl.zeros((L, NH), tl.float32)
    sum_k1, sum_k2 = tl.zeros((L, NH), tl.float32), tl.zeros((L, NH), tl.float32)
    for n in range(HEADS):
        head = split * HEADS + n
        unit = tile * H + head
        o_scalar = (start // T * H + head) * T + start % T
        c, dt, gamma, w = load_decay(p_adt + o_scalar, p_dt + o_scalar, p_trap + o_scalar, count, left, C)
        p_turns = p_angles + start * s_angles + head * s_angles_head
        cos, sin = load_cos_sin(p_turns, s_angles, p_theta + unit * S, dt, count, S, C, NH)
        p_query, p_key = p_q + start * s_q + group * N, p_k + start * s_k + group * N
        q1, q2 = load_rotated(p_query, s_q, G * N, p_q_bias + head * R * N, cos, sin, count, N, NH, HALF, R, L)
        k1, k2 = load_rotated(p_key, s_k, G * N, p_k_bias + head * R * N, cos, sin, count, N, NH, HALF, R, L)
        p_value = p_v + start * s_v + head * P
        x = spread(load_values(p_value, s_v, count, P, C), R)
        if MIMO:
            x = x * load_ranks(p_mimo_x + head * R * P, P, R, L)
        dy = load_values(p_dy + unit * L * P, P, L, P, L)

        eq1, eq2, ek1, ek2, dx, reader, writer, held = through_states(
            q1, q2, k1, k2, x, dy, c, w, p_g + unit * P * N, p_dg + unit * P * N, N, NH, HALF, P, R, C, DT
        )
        dq1, dq2, dk1, dk2, du, as_query, as_key, diagonal = inside(q1, q2, k1, k2, x, dy, c, gamma, w, R, L, DT)
        dq1, dq2, dk1, dk2 = dq1 + eq1, dq2 + eq2, dk1 + ek1, dk2 + ek2
        dx += du + tl.load(p_D + head) * dy
        if FINAL:
            sequence = tl.load(p_sequence + tile).to(tl.int64)
            p_last = p_dk_final + (sequence * R * H + head) * N
            e1, e2 = load_halves(p_last, (i % R) * H * N, i // R == last, N, NH, HALF)
            dk1, dk2 = dk1 + e1, dk2 + e2
            p_dv_final_row = p_dv_final + (sequence * H + head) * P
        else:
            p_dv_final_row = p_dv_final
        store_tokens(
            p_da + o_scalar, p_dgamma + o_scalar, p_dsigma + o_scalar,
            as_query, as_key, diagonal, reader, writer, held, w, count, C,
        )  # fmt: skip
        store_values(
            p_dv + start * H * P + head * P, p_mimo_x + head * R * P, p_part_x + unit * R * P, p_dv_final_row,
            p_value, s_v, dx, last, count, P, R, C, H * P, MIMO, FINAL,
        )  # fmt: skip
        dq1, dq2, dk1, dk2 = turn_back(
            dq1, dq2, dk1, dk2, q1, q2, k1, k2, cos, sin, p_dtheta + unit * C * S, S, NH, R, C
        )
        r = tl.arange(0, R)
        o_bias = unit * R * N
        store_halves(p_part_q_bias + o_bias, r * N, r < R, over_tokens(dq1, R), over_tokens(dq2, R), N, NH, HALF)
        store_halves(p_part_k_bias + o_bias, r * N, r < R, over_tokens(dk1, R), over_tokens(dk2, R), N, NH, HALF)
        sum_q1, sum_q2, sum_k1, sum_k2 = sum_q1 + dq1, sum_q2 + dq2, sum_k1 + dk1, sum_k2 + dk2
    o_part = split % share * s_part + start * R * G * N + group * N
    o_rows, m_rows = (i // R) * R * G * N + (i % R) * G * N, i // R < count
    store_halves(p_part_q + o_part, o_rows, m_rows, sum_q1, sum_q2, N, NH, HALF)
    store_halves(p_part_k + o_part, o_rows, m_rows, sum_k1, sum_k2, N, NH, HALF)
