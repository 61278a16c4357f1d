"""The chunk tile: what training, prefill and decode compute of one head of one tile, in registers.

Every output row of the scan and of the replay step comes from these functions, so that a row's bits depend neither on its neighbours
nor on which of the two asked (sections 3, 4 and 6 of the layer's specification). What is summed over a tile's tokens outside of a dot,
the decay and the angle, is summed token after token, as a step does. The products have keys, values and states on their first side
and the queries on their second: the scan asks with all rows of a tile, a step with the QUERIES rows of its token, and the columns of
a product do not know of each other.

Block shapes: L rows of (token, rank), row = token * R + rank, a power of two of at least 16; L // R tokens, of which a tile uses the
first C. N state, P head width, S angles: N/2 (the whole row is rotated) or N/4 (half of it). HALF: pairs (j, j + N/2), else (2j, 2j + 1).
DT is the compute dtype: operands of a dot are rounded to it, sums are fp32. Prefix p_ pointer, o_ offset, m_ mask, i_ index.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

PI = tl.constexpr(math.pi)
# pi/2 and 2 pi as sums of short constants: n times the first ones is exact in fp32 for |n| < 2^13 (Cody and Waite 1980).
QUARTER_1, QUARTER_2, QUARTER_3 = (
    tl.constexpr(1.5703125),
    tl.constexpr(4.83751296997e-4),
    tl.constexpr(7.54978995489e-8),
)
TURN_1, TURN_2, TURN_3 = tl.constexpr(6.28125), tl.constexpr(1.935005187988e-3), tl.constexpr(3.019915981956e-7)
NORM_EPS = tl.constexpr(1e-5)
QUERIES = tl.constexpr(
    8
)  # rows of a step's block of queries: the most ranks there are, and the least columns of a tensor-core product


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + exp x) to a few units in the last place, also far below 0: log1p(e) = 2 artanh(e / (2 + e))."""
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    z = s * s
    series = 1.0 / 15 * z + 1.0 / 13
    series = series * z + 1.0 / 11
    series = series * z + 1.0 / 9
    series = series * z + 1.0 / 7
    series = series * z + 1.0 / 5
    series = series * z + 1.0 / 3
    series = series * z + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def a_activation(x, HEAVY: tl.constexpr):
    """f of section 3: the heavy tail 1 + x above 0 and 1 / (1 - x) below, or softplus."""
    if HEAVY:
        return tl.where(x >= 0.0, 1.0 + x, 1.0 / (1.0 - tl.minimum(x, 0.0)))
    else:
        return softplus(x)


@triton.jit
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def cos_sin(theta):
    """Cosine and sine to 1e-7, |theta| < 10^4: reduced to [-pi/4, pi/4], then their series."""
    n = tl.floor(theta * (2.0 / PI) + 0.5)
    x = ((theta - n * QUARTER_1) - n * QUARTER_2) - n * QUARTER_3
    z = x * x
    sine = ((1.0 / 362880 * z - 1.0 / 5040) * z + 1.0 / 120) * z - 1.0 / 6
    sine = x + x * z * sine
    cosine = ((1.0 / 40320 * z - 1.0 / 720) * z + 1.0 / 24) * z - 0.5
    cosine = 1.0 + z * cosine
    quadrant = n.to(tl.int32) & 3
    odd = (quadrant & 1) == 1
    c, s = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    return tl.where((quadrant == 1) | (quadrant == 2), -c, c), tl.where(quadrant >= 2, -s, s)


@triton.jit
def reduce_angle(theta):
    """theta modulo 2 pi."""
    n = tl.floor(theta * (0.5 / PI))
    return ((theta - n * TURN_1) - n * TURN_2) - n * TURN_3


@triton.jit
def turns(angle, dt):
    """Angles [tokens, S] that the tokens add, from the logits and dt [tokens], summed from the tile's start on."""
    return tl.cumsum(tanh(angle) * (dt * PI)[:, None], 0)


@triton.jit
def turn_on(turn, angle, dt):
    """The angle since the chunk's start after one more token, from its logits and dt: one multiply-add, token after token."""
    return tl.fma(tanh(angle), dt * PI, turn)


@triton.jit
def last_entry(x, tokens: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, tokens) == tokens - 1, x, 0.0), 0)


@triton.jit
def weights(dt, trap, dt_next, trap_next):
    """gamma and w = gamma + sigma, all [tokens]; sigma of a token comes from the dt and trap of the next one."""
    gamma = dt * sigmoid(trap)
    return gamma, gamma + dt_next * sigmoid(-trap_next)


@triton.jit
def spread(x, R: tl.constexpr):
    """[tokens] or [tokens, S] to one row per token and rank."""
    if R == 1:
        return x
    elif len(x.shape) == 1:
        return tl.reshape(tl.broadcast_to(x[:, None], (x.shape[0], R)), (x.shape[0] * R,))
    else:
        wide = tl.broadcast_to(x[:, None, :], (x.shape[0], R, x.shape[1]))
        return tl.reshape(wide, (x.shape[0] * R, x.shape[1]))


@triton.jit
def beside(a, b):
    """[L, n] and [L, n] to [L, 2n], a's columns first."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def columns(p, o_row, m_row, p_bias, o_bias, cols):
    """Some columns of the normed rows of q or k at p + o_row [L], with the bias, fp32 [L, columns]. Masked rows are the bias alone."""
    bias = tl.load(p_bias + o_bias[:, None] + cols[None, :]).to(tl.float32)
    return tl.load(p + o_row[:, None] + cols[None, :], mask=m_row[:, None], other=0.0).to(tl.float32) + bias


@triton.jit
def turned_rows(
    p, o_row, m_row, p_bias, o_bias, cos, sin, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, DT: tl.constexpr
):
    """Rows of q or k with bias and rotation, [L, N] in DT; cos and sin [L, S]. The rest as in `columns`."""
    j = tl.arange(0, S)
    if HALF:
        a = columns(p, o_row, m_row, p_bias, o_bias, j)
        b = columns(p, o_row, m_row, p_bias, o_bias, j + N // 2)
        first, second = (a * cos - b * sin).to(DT), (a * sin + b * cos).to(DT)
        if 2 * S == N:
            return beside(first, second)
        else:
            a = columns(p, o_row, m_row, p_bias, o_bias, j + S)
            b = columns(p, o_row, m_row, p_bias, o_bias, j + 3 * S)
            return beside(beside(first, a.to(DT)), beside(second, b.to(DT)))
    else:
        wide = tl.arange(0, 2 * S)
        u = columns(p, o_row, m_row, p_bias, o_bias, wide)
        a, b = tl.split(tl.reshape(u, (u.shape[0], S, 2)))
        u = tl.reshape(tl.join((a * cos - b * sin).to(DT), (a * sin + b * cos).to(DT)), (u.shape[0], 2 * S))
        if 2 * S == N:
            return u
        else:
            return beside(u, columns(p, o_row, m_row, p_bias, o_bias, wide + 2 * S).to(DT))


@triton.jit
def partner(n, N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr):
    """Of state entries n: the entry each is turned with, the number of its angle, and the sign of the other's share; 0: not turned."""
    if HALF:
        first, second = n < S, (n >= N // 2) & (n < N // 2 + S)
        other, angle = tl.where(first, n + N // 2, n - N // 2), tl.where(first, n, n - N // 2)
    else:
        first, second = (n < 2 * S) & (n % 2 == 0), (n < 2 * S) & (n % 2 == 1)
        other, angle = n - n % 2 + (n + 1) % 2, n // 2
    turned = first | second
    return tl.where(turned, other, n), tl.where(turned, angle, 0), tl.where(first, -1.0, tl.where(second, 1.0, 0.0))


@triton.jit
def turned(u, other, cos, sin, sign):
    """Entries u after the rotation with their partners `other`: the sums of turned_rows, entry by entry."""
    return tl.where(sign == 0.0, u, u * cos + sign * (other * sin))


@triton.jit
def values(x, p_mimo, o_mimo, MIMO: tl.constexpr):
    """Values of the ranks from x [L, P], fp32: mimo_x times x."""
    if MIMO:
        return x * tl.load(p_mimo + o_mimo).to(tl.float32)
    else:
        return x


@triton.jit
def increment(k, v, total, c, w, DT: tl.constexpr):
    """What a tile adds to the look-ahead state, fp32 [P, N]. k [L, N] rotated and v [L, P], both in DT; c, w [L] and the last c, fp32.

    Inert rows have w = 0.
    """
    keys = k.to(tl.float32) * (tl.exp(tl.minimum(total - c, 0.0)) * w)[:, None]
    return tl.dot(tl.trans(v), keys.to(DT), input_precision="ieee")


@triton.jit
def carry(g, decay, added):
    """The look-ahead state after a tile: one multiply-add per chunk, in order."""
    return tl.fma(g, tl.zeros_like(g) + decay, added)


@triton.jit
def score_weight(c_query, t_query, c, t, gamma, w):
    """What (q_i k_s) counts in y_i, [L, queries]: exp(c_i - c_s) w_s for a token s before i, gamma for i itself, else 0.

    c, t, gamma, w [L] of the keys; c_query, t_query [queries].
    """
    before, now = t[:, None] < t_query[None, :], t[:, None] == t_query[None, :]
    weight = tl.where(before, w[:, None], tl.where(now, gamma[:, None], 0.0))
    return tl.exp(tl.minimum(c_query[None, :] - c[:, None], 0.0)) * weight


@triton.jit
def read_out(q, k, v, g, c_query, weight, DT: tl.constexpr):
    """y of section 6, fp32 [P, queries]: of the state before the tile g [P, N], and of the tile's own tokens.

    q [queries, N], k [L, N], v [L, P] and g in DT; c_query [queries]; weight [L, queries].
    """
    scores = tl.dot(k, tl.trans(q), input_precision="ieee") * weight
    read = tl.dot(g, tl.trans(q), input_precision="ieee") * tl.exp(c_query)[None, :]
    return tl.dot(tl.trans(v), scores.to(DT), read, input_precision="ieee")


@triton.jit
def fold(y):
    """[P, n] to [P, n / 2]: neighbouring columns added."""
    a, b = tl.split(tl.reshape(y, (y.shape[0], y.shape[1] // 2, 2)))
    return a + b


@triton.jit
def down_sum(y):
    """[P, n] to [n]: the sum over P <= 128, neighbours first, in an order that no layout changes, as tl.sum's would."""
    P: tl.constexpr = y.shape[0]
    n: tl.constexpr = y.shape[1]
    x = tl.trans(y)
    if P >= 128:
        x = fold(x)
    if P >= 64:
        x = fold(x)
    if P >= 32:
        x = fold(x)
    x = fold(fold(fold(fold(x))))
    return tl.reshape(x, (n,))


@triton.jit
def output_rows(
    y, v, z, d, p_norm, o_norm, p_mimo_z, p_mimo_o, o_mimo,
    R: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """D skip, norm, gate and the sum over ranks of section 4: y, v, z fp32 [P, n] to [P, n / R].

    o_norm: the head's first weight of the norm; o_mimo [P, n].
    """
    y = y + d * v
    if NORM:
        P: tl.constexpr = y.shape[0]
        scale = tl.rsqrt(down_sum(y * y) / P + NORM_EPS)
        y = y * scale[None, :] * tl.load(p_norm + o_norm + tl.arange(0, P)).to(tl.float32)[:, None]
    if MIMO:
        z = z * tl.load(p_mimo_z + o_mimo).to(tl.float32)
        y = y * tl.load(p_mimo_o + o_mimo).to(tl.float32)
    y = y * (z * sigmoid(z))
    if R >= 2:
        y = fold(y)
    if R >= 4:
        y = fold(y)
    if R >= 8:
        y = fold(y)
    return y


@triton.jit
def row_scale(x, EPS: tl.constexpr):
    """1 / rms of the rows of x [R, N] fp32."""
    return tl.rsqrt(tl.sum(x * x, 1) / x.shape[1] + EPS)


@triton.jit
def token_scalars(dt, a, trap, dt_bias, HEAVY: tl.constexpr, FLOOR: tl.constexpr):
    """adt, dt and the trapezoid logit of section 3 from the logits of the projection; fp32."""
    dt = softplus(dt.to(tl.float32) + dt_bias)
    return -tl.maximum(a_activation(a.to(tl.float32), HEAVY), FLOOR) * dt, dt, trap.to(tl.float32)
