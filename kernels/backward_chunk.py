"""The gradients of values, queries and keys inside a tile, with what passes through the states at its two ends.

Section 7 of the specification. Two kernels, and in the second one the pieces of N one after the other: registers hold no more
than two accumulators of L rows at a time, and what is only multiplied need not stay in them.
"""

import triton
import triton.language as tl

from .backward_tile import (
    contraction,
    kept,
    load_cos_sin,
    load_pairs,
    load_rank_values,
    load_ranks,
    load_rest,
    load_rotated,
    load_rotated_pairs,
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
from .chunk_tile import last_entry, spread


@triton.jit
def score_sums(scores, d_scores, c, gamma, w, R: tl.constexpr, L: tl.constexpr):
    """The tile's weighted scores [L, L], keys along the first dimension, and three sums per token.

    They are, over M_ts = exp(c_t - c_s) w_s (q_t k_s) (dy_t v_s), s < t: over s; over t without w_s, which is the strict part
    of dw; and (q_s k_s) (dy_s v_s), what gamma has more. Both first ones come from one matrix: they cancel in da.
    """
    decay, same = kept(c, R, L, True)
    w_row = spread(w, R)[:, None]
    both = scores * d_scores
    diagonal = over_ranks(tl.sum(tl.where(same, both, 0.0), 1), R)
    both = both * decay
    as_query = over_ranks(tl.sum(both * w_row, 0), R)
    as_key = over_ranks(tl.sum(both, 1), R)
    return scores * tl.where(same, spread(gamma, R)[:, None], decay * w_row), as_query, as_key, diagonal


@triton.jit
def held_state(p_g, p_dg, P: tl.constexpr, N: tl.constexpr):
    """<g, dg>: times exp(c_last) the gradient of c_last as the decay of the state that the tile passes on."""
    o = tl.arange(0, P)[:, None] * N + tl.arange(0, N)[None, :]
    return tl.sum(tl.sum(tl.load(p_g + o) * tl.load(p_dg + o), 1), 0)


@triton.jit
def store_values(
    dx, p_dv, p_mimo_x, p_part_x, p_dv_final, p_v, s_v, last, count,
    H: tl.constexpr, P: tl.constexpr, R: tl.constexpr, tokens: tl.constexpr, MIMO: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """dv of the tile's tokens from that of their ranks [L, P], and the tile's part of the gradient of mimo_x."""
    t, p = tl.arange(0, tokens), tl.arange(0, P)
    if MIMO:
        v = spread(load_values(p_v, s_v, count, P, tokens), R)
        store_ranks(p_part_x, over_tokens(dx * v, R), P, R)
        dx = dx * load_ranks(p_mimo_x, P, R, tokens * R)
    dv = over_ranks(dx, R)
    if FINAL:
        dv += tl.where((t == last)[:, None], tl.load(p_dv_final + p)[None, :], 0.0)
    tl.store(p_dv + t[:, None] * (H * P) + p[None, :], dv, mask=(t < count)[:, None])


@triton.jit
def rest_gradient(
    y3, across, scale, d_scores, p_state, p_last, i_last, s_last, p_sum, p_part, count, more,
    N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    G: tl.constexpr, FINAL: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """The gradient of the entries of q or k that belong to no pair; see pair_gradient."""
    i, r, p = tl.arange(0, L), tl.arange(0, R), tl.arange(0, P)
    o_rows, m_rows = (i // R) * R * G * N + (i % R) * G * N, i // R < count
    d = product_onto(scale * product(across, load_rest(p_state, p * N, p < P, N, S, HALF), DT), d_scores, y3, DT)
    if FINAL:
        d += load_rest(p_last, (i % R) * s_last, i // R == i_last, N, S, HALF)
    store_rest(p_part, r * N, r < R, over_tokens(d, R), N, S, HALF)
    d += load_rest(p_sum, o_rows, m_rows & more, N, S, HALF)
    store_rest(p_sum, o_rows, m_rows, d, N, S, HALF)


@triton.jit
def pair_gradient(
    x1, x2, y1, y2, across, scale, d_scores, p_state, cos, sin, p_last, i_last, s_last, p_sum, p_part, count, more,
    N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    G: tl.constexpr, FINAL: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """The gradient of the pairs of q or k, as they are before bias and rotation; x1, x2: as they are after it.

    scale * (across . state) + d_scores . y, with the state [P, N] at p_state and y the pieces of the other side (keys or
    queries); with FINAL also p_last [R, N] (s_last apart) for the token i_last. It is added to the sum over heads at p_sum
    (more: there is one), and summed over tokens at p_part [R, N]. Returns the angles' gradient
    [tokens, S], summed over the tile's later tokens.
    """
    i, r, p = tl.arange(0, L), tl.arange(0, R), tl.arange(0, P)
    o_rows, m_rows = (i // R) * R * G * N + (i % R) * G * N, i // R < count
    s1, s2 = load_pairs(p_state, p * N, p < P, N, S, HALF)
    d1 = product_onto(scale * product(across, s1, DT), d_scores, y1, DT)
    d2 = product_onto(scale * product(across, s2, DT), d_scores, y2, DT)
    if FINAL:
        s1, s2 = load_pairs(p_last, (i % R) * s_last, i // R == i_last, N, S, HALF)
        d1, d2 = d1 + s1, d2 + s2
    dtheta = over_ranks(x1 * d2 - x2 * d1, R)
    cos, sin = spread(cos, R), spread(sin, R)
    d1, d2 = d1 * cos + d2 * sin, d2 * cos - d1 * sin
    store_pairs(p_part, r * N, r < R, over_tokens(d1, R), over_tokens(d2, R), N, S, HALF)
    s1, s2 = load_pairs(p_sum, o_rows, m_rows & more, N, S, HALF)
    store_pairs(p_sum, o_rows, m_rows, d1 + s1, d2 + s2, N, S, HALF)
    return tl.cumsum(dtheta, 0, reverse=True)


@triton.jit
def finish_tokens(p_da, p_dgamma, p_dsigma, p_reader, p_writer, held, written, w, count, H: tl.constexpr):
    """da, dgamma and dsigma of the tile's tokens, in place of the sums over rows, over columns and of the diagonal.

    dsigma belongs to dt and trap of the following token. The sums came in the layouts of their products, in which this would
    take more registers than there are: hence the way through memory.
    """
    t = tl.arange(0, w.shape[0])
    o, m = t * H, t < count
    dw = tl.load(p_dsigma + o, mask=m, other=0.0) + tl.load(p_writer + o, mask=m, other=0.0)
    dc = tl.load(p_da + o, mask=m, other=0.0) + tl.load(p_reader + o, mask=m, other=0.0) - w * dw
    dc += tl.where(t == w.shape[0] - 1, held + written, 0.0)
    dgamma = dw + tl.load(p_dgamma + o, mask=m, other=0.0)
    tl.debug_barrier()
    tl.store(p_da + o, tl.cumsum(dc, 0, reverse=True), mask=m)
    tl.store(p_dgamma + o, dgamma, mask=m)
    tl.store(p_dsigma + o, dw, mask=m)


@triton.jit
def values_kernel(
    p_q, p_k, p_v, p_adt, p_dt, p_trap, p_angles, p_q_bias, p_k_bias, p_D, p_mimo_x,
    p_theta, p_g, p_dg, p_dy, p_reader, p_dv_final, p_tiles, p_owner,
    p_dv, p_da, p_dgamma, p_dsigma, p_writer, p_part_x,
    s_q, s_k, s_v, s_angles, s_angles_head,
    H: tl.constexpr, G: tl.constexpr, N: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, FINAL: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """One tile of one head: gradients of v, a, gamma and sigma, and the tile's part of that of mimo_x.

    p_g and p_dg [tiles, H, P, N]: the state before the tile, and the gradient of the one after it.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, head = pid // H, pid % H
    group = head // (H // G)
    tokens: tl.constexpr = L // R
    start, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
    count = tl.minimum(left, C)
    dt, c, gamma, w = load_scalars(p_adt, p_dt, p_trap, start, left, head, H, C, tokens)
    held = held_state(p_g + pid * P * N, p_dg + pid * P * N, P, N)
    p_turns = p_angles + start * s_angles + head * s_angles_head
    cos, sin = load_cos_sin(p_turns, s_angles, p_theta + pid * S, dt, count, S, max(S, 16))
    p_query, p_key, o_bias = p_q + start * s_q + group * N, p_k + start * s_k + group * N, head * R * N
    k1, k2, k3 = load_rotated(p_key, s_k, G * N, p_k_bias + o_bias, cos, sin, count, N, S, HALF, R, L, DT)
    q1, q2, q3 = load_rotated(p_query, s_q, G * N, p_q_bias + o_bias, cos, sin, count, N, S, HALF, R, L, DT)
    scores = contraction(k1, k2, k3, q1, q2, q3, N > 2 * S, DT)

    p_value = p_v + start * s_v + head * P
    x = load_rank_values(p_value, s_v, p_mimo_x + head * R * P, count, P, R, L, MIMO)
    i, p = tl.arange(0, L), tl.arange(0, P)
    x, dy = x.to(DT), tl.load(p_dy + pid * L * P + i[:, None] * P + p[None, :])
    scores, as_query, as_key, diagonal = score_sums(scores, product(x, tl.trans(dy), DT), c, gamma, w, R, L)
    scores, total = scores.to(DT), last_entry(c, tokens)
    t, o_scalar = tl.arange(0, tokens), start * H + head
    tl.store(p_da + o_scalar + t * H, as_query, mask=t < count)
    tl.store(p_dsigma + o_scalar + t * H, as_key, mask=t < count)
    tl.store(p_dgamma + o_scalar + t * H, diagonal, mask=t < count)
    d1, d2, d3 = load_state(p_dg + pid * P * N, N, S, HALF, P, DT)
    dx = contraction(k1, k2, k3, d1, d2, d3, N > 2 * S, DT)
    until = tl.exp(tl.minimum(total - c, 0.0))
    writer = until * over_ranks(tl.sum(x * dx, 1), R)
    tl.store(p_writer + o_scalar + t * H, writer, mask=t < count)
    written = tl.sum(w * writer, 0)
    dx = product_onto(spread(w * until, R)[:, None] * dx, scores, dy, DT) + tl.load(p_D + head) * dy
    o_last = tl.load(p_owner + tile).to(tl.int64) * H + head
    store_values(
        dx, p_dv + o_scalar * P, p_mimo_x + head * R * P, p_part_x + pid * R * P, p_dv_final + o_last * P, p_value, s_v,
        tl.where(left <= C, left - 1, -1), count, H, P, R, tokens, MIMO, FINAL,
    )  # fmt: skip
    tl.debug_barrier()
    dt, c, gamma, w = load_scalars(p_adt, p_dt, p_trap, start, left, head, H, C, tokens)
    finish_tokens(
        p_da + o_scalar, p_dgamma + o_scalar, p_dsigma + o_scalar, p_reader + o_scalar, p_writer + o_scalar,
        tl.exp(total) * held, written, w, count, H,
    )  # fmt: skip


@triton.jit
def rows_kernel(
    p_own, p_other, p_v, p_adt, p_dt, p_trap, p_angles, p_own_bias, p_other_bias, p_mimo_x,
    p_theta, p_state, p_dy, p_last, p_tiles, p_owner,
    p_sum, p_dtheta, p_part,
    s_own, s_other, s_v, s_angles, s_angles_head, s_sum,
    H: tl.constexpr, G: tl.constexpr, N: tl.constexpr, P: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, MIMO: tl.constexpr, FINAL: tl.constexpr,
    KEYS: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """One tile of HEADS heads of one group, in order: the gradient of q or (KEYS) of k, summed over the heads, and of the angles.

    "own" are q with the state before the tile, or k with the gradient of the one after it; "other" is the other of q and k.
    p_sum fp32 [H / G / HEADS, tokens of all, R, G, N], s_sum between the sums of one group's programs; p_last [n, R, H, N]: the
    gradient of the sequence's last key (KEYS and FINAL). p_dtheta fp32 [tiles, H, tokens, S]: the angles' gradients, summed over
    the tile's later tokens; KEYS are the second to come and add to it.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, split = pid // (H // HEADS), pid % (H // HEADS)
    share: tl.constexpr = H // G // HEADS
    tokens: tl.constexpr = L // R
    group = split // share
    for n in tl.range(0, HEADS, disable_licm=True):
        # Loaded again for every head: else the compiler keeps all addresses of q, k and their sums in registers.
        start, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
        count = tl.minimum(left, C)
        head, unit = split * HEADS + n, tile * H + split * HEADS + n
        o_bias, o_sum = head * R * N, split % share * s_sum + start * R * G * N + group * N
        i, t, j, p = tl.arange(0, L), tl.arange(0, tokens), tl.arange(0, max(S, 16)), tl.arange(0, P)
        dt, c, gamma, w = load_scalars(p_adt, p_dt, p_trap, start, left, head, H, C, tokens)
        x = load_rank_values(p_v + start * s_v + head * P, s_v, p_mimo_x + head * R * P, count, P, R, L, MIMO)
        x, dy = x.to(DT), tl.load(p_dy + unit * L * P + i[:, None] * P + p[None, :])
        across, beside, scale, p_row, i_last = dy, x, tl.exp(c), p_state, -1
        if KEYS:
            across, beside, scale = x, dy, w * tl.exp(tl.minimum(last_entry(c, tokens) - c, 0.0))
            p_row = p_last + (tl.load(p_owner + tile).to(tl.int64) * R * H + head) * N
            i_last = tl.where(left <= C, left - 1, -1)
        d_scores = (product(across, tl.trans(beside), DT) * weight(c, gamma, w, R, L, KEYS)).to(DT)
        p_turns = p_angles + start * s_angles + head * s_angles_head
        cos, sin = load_cos_sin(p_turns, s_angles, p_theta + unit * S, dt, count, S, max(S, 16))
        p_rows, p_others = p_own + start * s_own + group * N, p_other + start * s_other + group * N
        y1, y2, y3 = load_rotated(
            p_others, s_other, G * N, p_other_bias + o_bias, cos, sin, count, N, S, HALF, R, L, DT
        )
        scale, p_g = spread(scale, R)[:, None], p_state + unit * P * N
        p_to, p_part_row = p_sum + o_sum, p_part + unit * R * N
        if N > 2 * S:
            rest_gradient(
                y3, across, scale, d_scores, p_g, p_row, i_last, H * N, p_to, p_part_row, count, n > 0,
                N, S, HALF, P, R, L, G, FINAL, DT,
            )  # fmt: skip
        x1, x2 = load_rotated_pairs(p_rows, s_own, G * N, p_own_bias + o_bias, cos, sin, count, N, S, HALF, R, L)
        dtheta = pair_gradient(
            x1, x2, y1, y2, across, scale, d_scores, p_g, cos, sin, p_row, i_last, H * N, p_to, p_part_row, count, n > 0,
            N, S, HALF, P, R, L, G, FINAL, DT,
        )  # fmt: skip
        p_later = p_dtheta + unit * tokens * S + t[:, None] * S + j[None, :]
        if KEYS:
            dtheta += tl.load(p_later, mask=(j < S)[None, :], other=0.0)
        tl.store(p_later, dtheta, mask=(j < S)[None, :])
        tl.debug_barrier()
