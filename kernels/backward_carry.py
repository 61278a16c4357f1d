"""What the backward pass carries from tile to tile, in order and from the last to the first, and what follows from it."""

import triton
import triton.language as tl

from .chunk_tile import PI, sigmoid, tanh


@triton.jit
def carry_kernel(
    p_x, s_x, p_total, p_final, p_after, s_after, p_start, p_sequences, H, W,
    DECAY: tl.constexpr, FINAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """d <- exp(total) d + x, backwards over the tiles of a sequence, for BLOCK of the W numbers of one head.

    p_x, p_after [tiles, H, ...] with s_x, s_after between heads: what a tile adds, and d as it stood before that (the
    gradient of what leaves the tile), which may lie in the same place. p_final [n, H, W] is d after the last tile (FINAL;
    else 0), p_start [n, H, W] receives d before the first one. p_total [tiles, H] is used with DECAY only.
    """
    pid = tl.program_id(0).to(tl.int64)
    sequence, head = pid // H, pid % H
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_i = i < W
    d = tl.zeros((BLOCK,), tl.float32)
    if FINAL:
        d = tl.load(p_final + pid * W + i, mask=m_i, other=0.0).to(tl.float32)
    first = tl.load(p_sequences + 2 * sequence)
    tile = first + tl.load(p_sequences + 2 * sequence + 1) - 1
    while tile >= first:
        unit = tile.to(tl.int64) * H + head
        x = tl.load(p_x + unit * s_x + i, mask=m_i, other=0.0)
        tl.store(p_after + unit * s_after + i, d, mask=m_i)
        if DECAY:
            d = d * tl.exp(tl.load(p_total + unit))
        d += x
        tile -= 1
    tl.store(p_start + pid * W + i, d, mask=m_i)


@triton.jit
def angle_kernel(
    p_angles, p_dt, p_trap, p_dgamma, p_dsigma, p_dtheta, p_after, p_dsigma_start, p_tiles, p_sequences, p_owner,
    p_dangles, p_ddt, p_dtrap, s_angles, s_dangles, H,
    S: tl.constexpr, C: tl.constexpr, tokens: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr,
    INITIAL: tl.constexpr,
):  # fmt: skip
    """Gradients of dt, trap (both [tokens of all, H]) and the angle logits for BLOCK tokens of a tile.

    With SHARED one program takes all heads, in order, and sums the logits' gradients. p_dtheta [tiles, H, tokens, S] holds the
    sums over the tile's later tokens, p_after [tiles, H, S] those over later tiles; p_dsigma_start [n, H] is the gradient of
    the initial state's sigma (INITIAL).
    """
    pid = tl.program_id(0).to(tl.int64)
    tile, head = pid, pid * 0
    heads = H
    if not SHARED:
        tile, head, heads = pid // H, pid % H, 1
    start, left = tl.load(p_tiles + 2 * tile).to(tl.int64), tl.load(p_tiles + 2 * tile + 1)
    sequence = tl.load(p_owner + tile).to(tl.int64)
    i, j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, S)
    m_i = (i < C) & (i < left)
    m_after = m_i & (i + (tile - tl.load(p_sequences + 2 * sequence)) > 0)
    o_angles = (start + i)[:, None] * s_angles + head * S + j[None, :]
    o_dangles = (start + i)[:, None] * s_dangles + head * S + j[None, :]
    turn = tanh(tl.load(p_angles + o_angles, mask=m_i[:, None], other=0.0).to(tl.float32))
    total = tl.zeros((BLOCK, S), tl.float32)
    n = 0
    while n < heads:
        unit = tile * H + head
        o_scalar = (start + i) * H + head
        dt = tl.load(p_dt + o_scalar, mask=m_i, other=0.0)
        lam = sigmoid(tl.load(p_trap + o_scalar, mask=m_i, other=0.0))
        dgamma = tl.load(p_dgamma + o_scalar, mask=m_i, other=0.0)
        dsigma = tl.load(p_dsigma + o_scalar - H, mask=m_after, other=0.0)
        if INITIAL:
            dsigma = tl.where(m_after, dsigma, tl.load(p_dsigma_start + sequence * H + head))
        later = tl.load(p_dtheta + (unit * tokens + i)[:, None] * S + j[None, :], mask=m_i[:, None], other=0.0)
        later += tl.load(p_after + unit * S + j)[None, :]
        total += later * dt[:, None]
        ddt = lam * dgamma + (1.0 - lam) * dsigma + PI * tl.sum(later * turn, 1)
        tl.store(p_ddt + o_scalar, ddt, mask=m_i)
        tl.store(p_dtrap + o_scalar, dt * (dgamma - dsigma) * lam * (1.0 - lam), mask=m_i)
        head += 1
        n += 1
    tl.store(p_dangles + o_dangles, total * (PI * (1.0 - turn * turn)), mask=m_i[:, None])
