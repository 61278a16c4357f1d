"""The chunk tile: what training, prefill and decode compute of one head of one tile, in registers.

Every output row of the scan and of the replay step comes from these functions with the same block shapes, so that a row's bits depend
neither on its neighbours nor on which of the two asked (sections 3, 4 and 6 of the layer's specification).

Block shapes: L rows of (token, rank), row = token * R + rank, a power of two of at least 16; L // R tokens, of which a tile uses the
first C. N state, P head width, S angles: N/2 (the whole row is rotated) or N/4 (half of it). HALF: pairs (j, j + N/2), else (2j, 2j + 1).
DT is the compute dtype: operands of a dot are rounded to it, sums are fp32. Prefix p_ pointer, o_ offset, m_ mask.
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

# Where a row of q or k is read from: tensors after the norm, the current token's raw projection, or the first with the second
# merged in.
NORMED, RAW, MERGED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


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
def last_row(x, tokens: tl.constexpr):
    """The last of x [tokens, S]: of a prefix sum that is the tile's total, with the bits of the prefix sum."""
    last = tl.arange(0, tokens) == tokens - 1
    return tl.sum(tl.where(last[:, None], x, 0.0), 0)


@triton.jit
def last_entry(x, tokens: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, tokens) == tokens - 1, x, 0.0), 0)


@triton.jit
def weights(dt, trap, dt_next, trap_next):
    """gamma and w = gamma + sigma, all [tokens]; sigma of a token comes from the dt and trap of the next one."""
    gamma = dt * sigmoid(trap)
    return gamma, gamma + dt_next * sigmoid(-trap_next)


@triton.jit
def tile_column(p, first, left, i_h, H: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr):
    """A tile's tokens [tokens] out of fp32 [tokens of all, H]; first: the tile's first token; left: tokens from there to the
    end of its sequence. 0 past either end."""
    t = tl.arange(0, tokens)
    return tl.load(p + first * H + i_h + t * H, mask=(t < C) & (t < left), other=0.0)


@triton.jit
def tile_decay(p_adt, p_dt, p_trap, first, left, i_h, H: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr):
    """c (the sum of a from the tile's start), gamma, w and dt of a tile's tokens, all [tokens]; blank tokens are inert."""
    t = tl.arange(0, tokens)
    m_next = (t < C) & (t + 1 < left)
    dt = tile_column(p_dt, first, left, i_h, H, C, tokens)
    trap = tile_column(p_trap, first, left, i_h, H, C, tokens)
    p_dt, p_trap = p_dt + (first + 1) * H + i_h, p_trap + (first + 1) * H + i_h
    dt_next = tl.load(p_dt + t * H, mask=m_next, other=0.0)
    trap_next = tl.load(p_trap + t * H, mask=m_next, other=0.0)
    c = tl.cumsum(tile_column(p_adt, first, left, i_h, H, C, tokens), 0)
    gamma, w = weights(dt, trap, dt_next, trap_next)
    return c, gamma, w, dt


@triton.jit
def tile_angles(p_angle, o_angle, s_angle, first, left, C: tl.constexpr, S: tl.constexpr, tokens: tl.constexpr):
    """Angle logits [tokens, S] fp32 of a tile's tokens; 0 past either end."""
    t = tl.arange(0, tokens)
    m = (t < C) & (t < left)
    o = t[:, None] * s_angle + tl.arange(0, S)[None, :]
    return tl.load(p_angle + first * s_angle + o_angle + o, mask=m[:, None], other=0.0).to(tl.float32)


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
def repeat(x, tokens: tl.constexpr):
    """[R, n] of the ranks to one row per token and rank, [tokens * R, n]: every token's the same."""
    wide = tl.broadcast_to(x[None, :, :], (tokens, x.shape[0], x.shape[1]))
    return tl.reshape(wide, (tokens * x.shape[0], x.shape[1]))


@triton.jit
def columns(
    p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, cols, DT: tl.constexpr, SOURCE: tl.constexpr
):
    """Some columns of the rows of q or k, with the bias, fp32 [L, columns].

    NORMED rows stand at p + o_row [L]. RAW ones are of one token, at p_raw + o_raw [R], and are normed here, by scale [R] and the
    norm's weight, and rounded to DT as they are when a tensor holds them. Rows outside of the masks [L] are the bias alone.
    """
    bias = tl.load(p_bias + o_bias[:, None] + cols[None, :]).to(tl.float32)
    if SOURCE == NORMED:
        return tl.load(p + o_row[:, None] + cols[None, :], mask=m_row[:, None], other=0.0).to(tl.float32) + bias
    else:
        raw = tl.load(p_raw + o_raw[:, None] + cols[None, :]).to(tl.float32)
        new = (raw * scale[:, None] * tl.load(p_norm + cols).to(tl.float32)[None, :]).to(DT)
        new = repeat(new, o_bias.shape[0] // o_raw.shape[0]).to(tl.float32)
        if SOURCE == RAW:
            return tl.where(m_raw[:, None], new, 0.0) + bias
        else:
            old = tl.load(p + o_row[:, None] + cols[None, :], mask=m_row[:, None], other=0.0).to(tl.float32)
            return tl.where(m_raw[:, None], new, old) + bias


@triton.jit
def turned_rows(
    p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, cos, sin,
    N: tl.constexpr, S: tl.constexpr, HALF: tl.constexpr, DT: tl.constexpr, SOURCE: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Rows of q or k with bias and rotation, [L, N] in the dtype OUT; cos and sin [L, S]. The rest as in `columns`."""
    j = tl.arange(0, S)
    if HALF:
        a = columns(p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, j, DT, SOURCE)
        b = columns(p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, j + N // 2, DT, SOURCE)
        first, second = (a * cos - b * sin).to(OUT), (a * sin + b * cos).to(OUT)
        if 2 * S == N:
            return beside(first, second)
        else:
            a = columns(p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, j + S, DT, SOURCE)
            b = columns(p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, j + 3 * S, DT, SOURCE)
            return beside(beside(first, a.to(OUT)), beside(second, b.to(OUT)))
    else:
        wide = tl.arange(0, 2 * S)
        u = columns(p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, wide, DT, SOURCE)
        a, b = tl.split(tl.reshape(u, (u.shape[0], S, 2)))
        u = tl.reshape(tl.join((a * cos - b * sin).to(OUT), (a * sin + b * cos).to(OUT)), (u.shape[0], 2 * S))
        if 2 * S == N:
            return u
        else:
            rest = columns(
                p, o_row, m_row, p_raw, o_raw, m_raw, scale, p_norm, p_bias, o_bias, wide + 2 * S, DT, SOURCE
            )
            return beside(u, rest.to(OUT))


@triton.jit
def values(x, p_mimo, o_mimo, MIMO: tl.constexpr):
    """Values of the ranks from x [L, P], fp32: mimo_x times x."""
    if MIMO:
        return x * tl.load(p_mimo + o_mimo).to(tl.float32)
    else:
        return x


@triton.jit
def increment(k, v, c, w, R: tl.constexpr, DT: tl.constexpr):
    """What a tile adds to the look-ahead state [P, N], and the decay of the state before it; fp32.

    k [L, N] and v [L, P] fp32, rotated; c and w [tokens]. Inert tokens have w = 0 and add nothing to c.
    """
    total = last_entry(c, c.shape[0])
    keys = k * spread(tl.exp(tl.minimum(total - c, 0.0)) * w, R)[:, None]
    return tl.dot(tl.trans(v.to(DT)), keys.to(DT), input_precision="ieee"), tl.exp(total)


@triton.jit
def carry(g, decay, added):
    """The look-ahead state after a tile: one multiply-add per chunk, in order."""
    return tl.fma(g, tl.zeros_like(g) + decay, added)


@triton.jit
def read_out(q, k, v, g, c, gamma, w, R: tl.constexpr, DT: tl.constexpr):
    """y [L, P] fp32 of section 6: the state before the tile g [P, N], and the tile's own tokens; q, k [L, N] and g in DT.

    Row t of the scale holds exp(c_t - c_s) w_s for s < t, gamma_t for s = t and 0 for s > t, the same for all ranks.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    rows = tl.arange(0, q.shape[0]) // R
    before, now = rows[None, :] < rows[:, None], rows[None, :] == rows[:, None]
    c, gamma, w = spread(c, R), spread(gamma, R), spread(w, R)
    weight = tl.where(before, w[None, :], tl.where(now, gamma[None, :], 0.0))
    scores = scores * (tl.exp(tl.minimum(c[:, None] - c[None, :], 0.0)) * weight)
    read = tl.dot(q, tl.trans(g), input_precision="ieee") * tl.exp(c)[:, None]
    return tl.dot(scores.to(DT), v.to(DT), read, input_precision="ieee")


@triton.jit
def fold(y):
    """[L, P] to [L / 2, P]: neighbouring rows added."""
    pairs = tl.permute(tl.reshape(y, (y.shape[0] // 2, 2, y.shape[1])), (0, 2, 1))
    a, b = tl.split(pairs)
    return a + b


@triton.jit
def output_rows(
    y, v, z, d, p_norm, o_norm, p_mimo_z, p_mimo_o, o_mimo,
    R: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """D skip, norm, gate and the sum over ranks of section 4: y, v, z [L, P] fp32 to [tokens, P].

    o_norm: the head's first weight of the norm; o_mimo [L, P].
    """
    y = y + d * v
    if NORM:
        P: tl.constexpr = y.shape[1]
        scale = tl.rsqrt(tl.sum(y * y, 1) / P + NORM_EPS)
        y = y * scale[:, None] * tl.load(p_norm + o_norm + tl.arange(0, P)).to(tl.float32)[None, :]
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
