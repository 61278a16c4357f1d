import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from mimosa.kernels.sampling import gumbel_noise, philox
from mimosa.kernels.tile_noise import tile_gumbel, tile_uniform

LARGEST = np.float32(1 - 2.0**-24)  # below 1


@triton.jit
def noise_kernel(p_uniform, p_gumbel, p_seed, p_key, p_position, first, BV: tl.constexpr):
    seed, key, position = tl.load(p_seed), tl.load(p_key), tl.load(p_position)
    o_col = tl.arange(0, BV)
    tl.store(p_uniform + o_col, tile_uniform(seed, key, position, first, BV))
    tl.store(p_gumbel + o_col, tile_gumbel(seed, key, position, first, BV))


def on_the_device(seed, key, position, first, width):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = [np.array([x], np.uint64).view(np.int64) for x in (seed, key, position)]
    uniform, gumbel = (torch.empty(width, device=device) for _ in range(2))
    noise_kernel[(1,)](uniform, gumbel, *(torch.from_numpy(w).to(device) for w in words), first, BV=width)
    return uniform.cpu().numpy(), gumbel.cpu().numpy()


def by_hand(seed, key, position, first, width):
    """The uniform numbers of gumbel_noise's docstring."""
    counters = [(first // 4 + i, position, key & 0xFFFFFFFF, key >> 32) for i in range(width // 4)]
    words = philox(list(np.array(counters, np.uint64).T), (seed & 0xFFFFFFFF, seed >> 32))
    return ((np.stack(words, -1).ravel() >> np.uint64(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)


@pytest.mark.parametrize(
    ("seed", "key", "position", "first"),
    [(0, 0, 0, 0), (7, 2**63 + 12345, 4095, 64), (2**63 + 2**40 + 5, 2**64 - 1, 2**32 - 1, 4096), (1, 2**31, 2**31, 4)],
)
def test_noise_is_that_of_the_reference(seed, key, position, first):
    uniform, gumbel = on_the_device(seed, key, position, first, 64)
    np.testing.assert_array_equal(uniform, np.minimum(by_hand(seed, key, position, first, 64), LARGEST))
    wanted = gumbel_noise(seed, np.array([key], np.uint64), np.array([position]), first + 64)[0, first:]
    np.testing.assert_allclose(gumbel, wanted, rtol=1e-5, atol=1e-6)


def test_noise_is_finite_where_a_word_rounds_to_one():
    """The words of 24 ones lie far apart: one is found with numpy, and then made on the device."""
    key = position = 0
    for first in range(0, 1 << 26, 1 << 20):
        found = np.flatnonzero(by_hand(3, key, position, first, 1 << 20) == 1)
        if found.size:
            break
    else:
        pytest.fail("no such word in 2^26")
    first += int(found[0]) // 64 * 64
    uniform, gumbel = on_the_device(3, key, position, first, 64)
    assert uniform[found[0] % 64] == LARGEST
    assert gumbel[found[0] % 64] == pytest.approx(24 * np.log(2), rel=1e-4)
