"""The noise of sampling.gumbel_noise as a tile on the device: same counters, same key, same words."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_uniform(seed, b_key, b_position, first, BM: tl.constexpr, BN: tl.constexpr):
    """Uniform numbers fp32 [BM, BN], inside (0, 1), of vocabulary entries first .. first + BN - 1 (first and BN multiples of 4).

    seed int64; b_key int64 [BM], the sequence keys; b_position int64 [BM]. One Philox4x32-10 counter makes four entries.
    """
    b_block = (first // 4 + tl.arange(0, BN // 4)).to(tl.uint32)[None, :]
    c0 = b_block + tl.zeros((BM, 1), tl.uint32)
    c1 = b_position.to(tl.uint32)[:, None] + tl.zeros_like(c0)
    c2 = b_key.to(tl.uint32)[:, None] + tl.zeros_like(c0)
    c3 = (b_key >> 32).to(tl.uint32)[:, None] + tl.zeros_like(c0)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, seed.to(tl.uint32), (seed >> 32).to(tl.uint32))
    b_word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BM, BN))
    b_uniform = ((b_word >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2^-24
    return tl.minimum(b_uniform, 0.99999994039535522)  # the greatest word would round to 1, and its noise to infinity


@triton.jit
def tile_gumbel(seed, b_key, b_position, first, BM: tl.constexpr, BN: tl.constexpr):
    """Gumbel noise -log(-log u) of `tile_uniform`."""
    return -tl.log(-tl.log(tile_uniform(seed, b_key, b_position, first, BM, BN)))
