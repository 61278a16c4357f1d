"""The noise of sampling.gumbel_noise made on the device: same counters, same key, same words."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_uniform(seed, key, position, first, BV: tl.constexpr):
    """Uniform numbers fp32 [BV], inside (0, 1), of vocabulary entries first .. first + BV - 1 (first and BV multiples of 4).

    seed, key and position are int64 scalars; the key holds the bits of an unsigned one. A Philox4x32-10 counter makes four entries.
    """
    c0 = (first // 4 + tl.arange(0, BV // 4)).to(tl.uint32)
    b_zero = tl.zeros_like(c0)
    c1, c2, c3 = b_zero + position.to(tl.uint32), b_zero + key.to(tl.uint32), b_zero + (key >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, seed.to(tl.uint32), (seed >> 32).to(tl.uint32))
    b_word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BV,))
    b_uniform = ((b_word >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2^-24
    return tl.minimum(b_uniform, 0.99999994039535522)  # the greatest word would round to 1, and its noise to infinity


@triton.jit
def tile_gumbel(seed, key, position, first, BV: tl.constexpr):
    """Gumbel noise -log(-log u) of `tile_uniform`."""
    return -tl.log(-tl.log(tile_uniform(seed, key, position, first, BV)))
