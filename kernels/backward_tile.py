"""Device functions of the scan's backward pass: what a tile's programs derive again from the tokens (SPEC section 3, 6).

A tile's block holds C tokens of one sequence and one head, of which the tile has `count`, in L = C * R rows: row i is
token i // R, rank i % R. Blank tokens have a = dt = gamma = w = 0 and zero rows, which makes them inert. Everything is
fp32 after the load; operands of a product are cast to DT, the type of the values, right before it.

A vector of N state entries is held as two halves of NH = max(N / 2, 16) columns: the first and the second entries of
the N / 2 pairs of the pairing (HALF: (j, j + N / 2), else (2j, 2j + 1)). Then the rotation is arithmetic on two registers,
and no column changes its place. Pairs from S on have angle 0; columns from N / 2 on are 0.

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
def over_ranks(x, R: tl.constexpr):
    """Sum the rows [L] or [L, K] of every token: [C] or [C, K]."""
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
def load_decay(p_adt, p_dt, p_trap, count, left, C: tl.constexpr):
    """c, dt, gamma, w [C] of the `count` tokens from the pointers on; `left` tokens remain in the sequence.

    w = gamma + sigma looks one token ahead, also into the next tile; sigma is 0 for the sequence's last token.
    """
    i = tl.arange(0, C)
    m_here, m_next = i < count, (i < count) & (i + 1 < left)
    a = tl.load(p_adt + i, mask=m_here, other=0.0)
    dt = tl.load(p_dt + i, mask=m_here, other=0.0)
    trap = tl.load(p_trap + i, mask=m_here, other=0.0)
    dt_next = tl.load(p_dt + i + 1, mask=m_next, other=0.0)
    trap_next = tl.load(p_trap + i + 1, mask=m_next, other=0.0)
    gamma, w = weights(dt, trap, dt_next, trap_next)
    return tl.cumsum(a, 0), dt, gamma, w


@triton.jit
def load_cos_sin(p_angles, s_angles, p_theta, dt, count, S: tl.constexpr, C: tl.constexpr, NH: tl.constexpr):
    """cos and sin [C, NH] of the cumulative angles; p_theta [S] is the angle before the tile."""
    i, j = tl.arange(0, C), tl.arange(0, NH)
    m_logits = (i < count)[:, None] & (j < S)[None, :]
    logits = tl.load(p_angles + i[:, None] * s_angles + j[None, :], mask=m_logits, other=0.0).to(tl.float32)
    before = tl.load(p_theta + j, mask=j < S, other=0.0)
    return cos_sin(before[None, :] + turns(logits, dt))


@triton.jit
def pair_columns(N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr):
    """Columns of the first and of the second entries of the pairs, and which of the NH are columns at all."""
    j = tl.arange(0, NH)
    if HALF:
        return j, j + N // 2, j < N // 2
    else:
        return 2 * j, 2 * j + 1, j < N // 2


@triton.jit
def load_halves(p_x, o_rows, m_rows, N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr):
    """The two halves of rows of N entries, fp32 [rows, NH] each."""
    first, second, m_columns = pair_columns(N, NH, HALF)
    p_rows, mask = p_x + o_rows[:, None], m_rows[:, None] & m_columns[None, :]
    x = tl.load(p_rows + first[None, :], mask=mask, other=0.0)
    y = tl.load(p_rows + second[None, :], mask=mask, other=0.0)
    return x.to(tl.float32), y.to(tl.float32)


@triton.jit
def store_halves(p_x, o_rows, m_rows, x, y, N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr):
    first, second, m_columns = pair_columns(N, NH, HALF)
    p_rows, mask = p_x + o_rows[:, None], m_rows[:, None] & m_columns[None, :]
    tl.store(p_rows + first[None, :], x, mask=mask)
    tl.store(p_rows + second[None, :], y, mask=mask)


@triton.jit
def load_rotated(
    p_x, s_token, s_rank, p_bias, cos, sin, count,
    N: tl.constexpr, NH: tl.constexpr, HALF: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Biased and rotated rows of a tile, as halves; p_x is token 0, rank 0 of the group, p_bias [R, N] the head's."""
    i = tl.arange(0, L)
    m_rows = i // R < count
    x, y = load_halves(p_x, (i // R) * s_token + (i % R) * s_rank, m_rows, N, NH, HALF)
    x_bias, y_bias = load_halves(p_bias, (i % R) * N, m_rows, N, NH, HALF)
    x, y, cos, sin = x + x_bias, y + y_bias, spread(cos, R), spread(sin, R)
    return x * cos - y * sin, x * sin + y * cos


@triton.jit
def load_values(p_v, s_token, count, P: tl.constexpr, C: tl.constexpr):
    """[C, P] of one head, fp32; blank tokens are 0."""
    i, p = tl.arange(0, C), tl.arange(0, P)
    return tl.load(p_v + i[:, None] * s_token + p[None, :], mask=(i < count)[:, None], other=0.0).to(tl.float32)


@triton.jit
def load_ranks(p_x, P: tl.constexpr, R: tl.constexpr, L: tl.constexpr):
    """[R, P] of one head, repeated for the rows of all tokens: [L, P]."""
    i, p = tl.arange(0, L), tl.arange(0, P)
    return tl.load(p_x + (i % R)[:, None] * P + p[None, :]).to(tl.float32)


@triton.jit
def store_ranks(p_x, x, K: tl.constexpr, R: tl.constexpr):
    """Store [R, K] at p_x."""
    tl.store(p_x + tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :], x)


@triton.jit
def kept(c, R: tl.constexpr, L: tl.constexpr):
    """exp(c_t - c_s) of rows t and s of a strictly later token t, else 0: [L, L]; and which rows share a token."""
    t = tl.arange(0, L) // R
    rows = spread(c, R)
    decay = tl.exp(tl.minimum(rows[:, None] - rows[None, :], 0.0))
    return tl.where(t[:, None] > t[None, :], decay, 0.0), t[:, None] == t[None, :]
