"""Device functions of the scan's backward pass: what a tile's programs derive again from the tokens (SPEC sections 3, 6).

Shapes and names as in chunk_tile: L rows of (token, rank) in a block, tokens = L // R, of which a tile has `count`, at
most C. Blank tokens have a = dt = gamma = w = 0 and zero rows, which makes them inert. Everything is fp32, but for the
operands of products: rotated queries and keys, values, states and scores are rounded to DT, the type of the values.

A row of N state entries is held as three pieces: the first and the second entries of its S pairs (HALF: (j, j + N / 2),
else (2j, 2j + 1)), and the rest, which is not rotated; a piece is 0 beyond its own columns where it has less than the 16
that a product wants. The rotation is arithmetic on two registers then, and no column changes its place. With 2S = N there
is no rest; its place is taken by anything.

Prefixes: p_ pointer, o_ offset, i_ index, m_ mask.
"""

import triton
import triton.language as tl

from .chunk_tile import cos_sin, spread, turns, weights


@triton.jit
def product(a, b, DT: tl.constexpr):
    """a b in fp32, from operands in DT."""
    return tl.dot(a.to(DT), b.to(DT), out_dtype=tl.float32, input_precision="ieee")


@triton.jit
def product_onto(sum, a, b, DT: tl.constexpr):
    """sum + a b in fp32, from operands in DT."""
    return tl.dot(a.to(DT), b.to(DT), acc=sum, out_dtype=tl.float32, input_precision="ieee")


@triton.jit
def contraction(a1, a2, a3, b1, b2, b3, REST: tl.constexpr, DT: tl.constexpr):
    """a b^T over the N state entries, from the pieces of a and b."""
    sum = product_onto(product(a1, tl.trans(b1), DT), a2, tl.trans(b2), DT)
    if REST:
        sum = product_onto(sum, a3, tl.trans(b3), DT)
    return sum


@triton.jit
def over_ranks(x, R: tl.constexpr):
    """Sum the rows [L] or [L, K] of every token: [tokens] or [tokens, K]."""
    if R == 1:
        return x
    elif len(x.shape) == 1:
        return tl.sum(tl.reshape(x, (x.shape[0] // R, R)), 1)
    else:
        return tl.sum(tl.reshape(x, (x.shape[0] // R, R, x.shape[1])), 1)


@triton.jit
def over_tokens(x, R: tl.constexpr):
    """Sum the rows [L, K] of every rank: [R, K]."""
    return tl.sum(tl.reshape(x, (x.shape[0] // R, R, x.shape[1])), 0)


@triton.jit
def per_token(x, tokens: tl.constexpr):
    """Ranks' rows [R, K], repeated for every token: [L, K]."""
    R: tl.constexpr = x.shape[0]
    return tl.reshape(tl.broadcast_to(x[None, :, :], (tokens, R, x.shape[1])), (tokens * R, x.shape[1]))


@triton.jit
def load_scalars(p_adt, p_dt, p_trap, start, left, head, H: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr):
    """dt, c (the sum of a from the tile's start), gamma and w, all [tokens], of the tile from token `start` on.

    `left` tokens remain in the sequence. w = gamma + sigma looks one token ahead, also into the next tile; sigma is 0 for
    the sequence's last token.
    """
    t = tl.arange(0, tokens)
    m_here, m_next = (t < C) & (t < left), (t < C) & (t + 1 < left)
    o = (start + t) * H + head
    a = tl.load(p_adt + o, mask=m_here, other=0.0)
    dt = tl.load(p_dt + o, mask=m_here, other=0.0)
    trap = tl.load(p_trap + o, mask=m_here, other=0.0)
    dt_next = tl.load(p_dt + o + H, mask=m_next, other=0.0)
    trap_next = tl.load(p_trap + o + H, mask=m_next, other=0.0)
    gamma, w = weights(dt, trap, dt_next, trap_next)
    return dt, tl.cumsum(a, 0), gamma, w


@triton.jit
def load_cos_sin(p_angles, s_angles, p_theta, dt, count, S: tl.constexpr, W: tl.constexpr):
    """cos and sin [tokens, W] of the cumulative angles; p_theta [S] is the angle before the tile."""
    t, j = tl.arange(0, dt.shape[0]), tl.arange(0, W)
    mask = (t < count)[:, None] & (j < S)[None, :]
    logits = tl.load(p_angles + t[:, None] * s_angles + j[None, :], mask=mask, other=0.0).to(tl.float32)
    before = tl.load(p_theta + j, mask=j < S, other=0.0)
    return cos_sin(before[None, :] + turns(logits, dt))


@triton.jit
def rest_columns(N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    """Columns of the entries that belong to no pair, and a mask."""
    W: tl.constexpr = max(N - 2 * S, 16)
    RUN: tl.constexpr = N // 2 - S  # contiguous columns with HALF
    j = tl.arange(0, W)
    if HALF:
        columns = tl.where(j < RUN, j + S, j + 2 * S)
        return tl.max_contiguous(tl.multiple_of(columns, RUN), RUN), j < 2 * RUN
    else:
        return j + 2 * S, j < N - 2 * S


@triton.jit
def load_columns(p_x, o_rows, m_rows, columns, m_columns):
    """Some columns of some rows, fp32; 0 where masked."""
    p, mask = p_x + o_rows[:, None] + columns[None, :], m_rows[:, None] & m_columns[None, :]
    return tl.load(p, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_pairs(p_x, o_rows, m_rows, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    W: tl.constexpr = max(S, 16)
    if HALF:
        j = tl.arange(0, W)
        return load_columns(p_x, o_rows, m_rows, j, j < S), load_columns(p_x, o_rows, m_rows, j + N // 2, j < S)
    else:
        j = tl.arange(0, 2 * W)
        x = load_columns(p_x, o_rows, m_rows, j, j < 2 * S)
        return tl.split(tl.reshape(x, (x.shape[0], W, 2)))


@triton.jit
def load_rest(p_x, o_rows, m_rows, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    columns, m = rest_columns(N, S, HALF)
    return load_columns(p_x, o_rows, m_rows, columns, m)


@triton.jit
def store_columns(p_x, o_rows, m_rows, x, columns, m_columns):
    tl.store(p_x + o_rows[:, None] + columns[None, :], x, mask=m_rows[:, None] & m_columns[None, :])


@triton.jit
def store_pairs(p_x, o_rows, m_rows, x1, x2, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    W: tl.constexpr = max(S, 16)
    if HALF:
        j = tl.arange(0, W)
        store_columns(p_x, o_rows, m_rows, x1, j, j < S)
        store_columns(p_x, o_rows, m_rows, x2, j + N // 2, j < S)
    else:
        j = tl.arange(0, 2 * W)
        x = tl.reshape(tl.join(x1, x2), (x1.shape[0], 2 * W))
        store_columns(p_x, o_rows, m_rows, x, j, j < 2 * S)


@triton.jit
def store_rest(p_x, o_rows, m_rows, x, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    columns, m = rest_columns(N, S, HALF)
    store_columns(p_x, o_rows, m_rows, x, columns, m)


@triton.jit
def load_rotated_pairs(
    p_x, s_token, s_rank, p_bias, cos, sin, count,
    N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """The pairs of a tile's biased and rotated rows; p_x is token 0, rank 0 of the group, p_bias [R, N] the head's."""
    i, r = tl.arange(0, L), tl.arange(0, R)
    m_rows = i // R < count
    x1, x2 = load_pairs(p_x, (i // R) * s_token + (i % R) * s_rank, m_rows, N, S, HALF)
    b1, b2 = load_pairs(p_bias, r * N, r < R, N, S, HALF)
    x1, x2, cos, sin = x1 + per_token(b1, L // R), x2 + per_token(b2, L // R), spread(cos, R), spread(sin, R)
    m = m_rows[:, None]
    return tl.where(m, x1 * cos - x2 * sin, 0.0), tl.where(m, x1 * sin + x2 * cos, 0.0)


@triton.jit
def load_rotated(
    p_x, s_token, s_rank, p_bias, cos, sin, count,
    N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, R: tl.constexpr, L: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """All pieces of the biased and rotated rows, in DT."""
    x1, x2 = load_rotated_pairs(p_x, s_token, s_rank, p_bias, cos, sin, count, N, S, HALF, R, L)
    x1, x2 = x1.to(DT), x2.to(DT)
    if N > 2 * S:
        i, r = tl.arange(0, L), tl.arange(0, R)
        m_rows = i // R < count
        x3 = load_rest(p_x, (i // R) * s_token + (i % R) * s_rank, m_rows, N, S, HALF)
        x3 += per_token(load_rest(p_bias, r * N, r < R, N, S, HALF), L // R)
        return x1, x2, tl.where(m_rows[:, None], x3, 0.0).to(DT)
    else:
        return x1, x2, x2


@triton.jit
def load_state(p_x, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, P: tl.constexpr, DT: tl.constexpr):
    """A state [P, N] in DT, by pieces."""
    p = tl.arange(0, P)
    x1, x2 = load_pairs(p_x, p * N, p < P, N, S, HALF)
    if N > 2 * S:
        return x1.to(DT), x2.to(DT), load_rest(p_x, p * N, p < P, N, S, HALF).to(DT)
    else:
        return x1.to(DT), x2.to(DT), x2.to(DT)


@triton.jit
def load_values(p_v, s_token, count, P: tl.constexpr, tokens: tl.constexpr):
    """[tokens, P] of one head, fp32; blank tokens are 0."""
    t, p = tl.arange(0, tokens), tl.arange(0, P)
    return tl.load(p_v + t[:, None] * s_token + p[None, :], mask=(t < count)[:, None], other=0.0).to(tl.float32)


@triton.jit
def load_ranks(p_x, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr):
    """[R, P] of one head, repeated for the rows of all tokens: [L, P]."""
    r, p = tl.arange(0, R), tl.arange(0, P)
    return per_token(tl.load(p_x + r[:, None] * P + p[None, :]).to(tl.float32), L // R)


@triton.jit
def load_rank_values(
    p_v, s_token, p_mimo, count, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr, MIMO: tl.constexpr
):
    """Values of the ranks [L, P] of one head: mimo_x, [R, P] at p_mimo, times v."""
    x = spread(load_values(p_v, s_token, count, P, L // R), R)
    if MIMO:
        return x * load_ranks(p_mimo, P, R, L)
    else:
        return x


@triton.jit
def store_ranks(p_x, x, K: tl.constexpr, R: tl.constexpr):
    """Store [R, K] at p_x."""
    tl.store(p_x + tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :], x)


@triton.jit
def kept(c, R: tl.constexpr, L: tl.constexpr, KEYS: tl.constexpr):
    """exp(c_t - c_s) of rows t and s of a strictly later token t, else 0; and which rows share a token.

    [L, L] with t along the first dimension, or with KEYS s: nothing that is multiplied later need be transposed then.
    """
    token, rows = tl.arange(0, L) // R, spread(c, R)
    later, since = token[:, None] - token[None, :], rows[:, None] - rows[None, :]
    if KEYS:
        later, since = -later, -since
    return tl.where(later > 0, tl.exp(tl.minimum(since, 0.0)), 0.0), later == 0


@triton.jit
def weight(c, gamma, w, R: tl.constexpr, L: tl.constexpr, KEYS: tl.constexpr):
    """The weight of (q_t k_s) in y_t [L, L], oriented as in `kept`: exp(c_t - c_s) w_s, gamma for the token itself."""
    decay, same = kept(c, R, L, KEYS)
    gamma, w = spread(gamma, R), spread(w, R)
    if KEYS:
        return tl.where(same, gamma[:, None], decay * w[:, None])
    else:
        return tl.where(same, gamma[None, :], decay * w[None, :])
