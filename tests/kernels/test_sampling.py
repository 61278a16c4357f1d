import math

import numpy as np
import pytest
import torch

from mimosa.kernels.sampling import gumbel_noise, philox, sample_tokens, sequence_key


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
    ids=["zeros", "ones", "pi"],
)  # fmt: skip
def test_philox_known_answers(counter, key, expected):
    """The known-answer vectors published with Random123 for philox4x32-10."""
    words = philox([np.array([c], np.uint64) for c in counter], key)
    assert tuple(int(w[0]) for w in words) == expected


def test_noise_is_a_function_of_its_name():
    keys, positions = np.array([11, 12, 11], np.uint64), np.array([0, 0, 7])
    together = gumbel_noise(5, keys, positions, 19)
    for i in range(3):
        np.testing.assert_array_equal(gumbel_noise(5, keys[i : i + 1], positions[i : i + 1], 19)[0], together[i])
    np.testing.assert_array_equal(gumbel_noise(5, keys, positions, 7), together[:, :7])
    assert len({row.tobytes() for row in [*together, *gumbel_noise(6, keys, positions, 19)]}) == 6


def test_noise_has_the_gumbel_distribution():
    noise = gumbel_noise(1, np.arange(500, dtype=np.uint64), np.zeros(500, int), 400).ravel()
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.57722, abs=0.01)
    assert noise.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    n = 40_000
    noise = torch.from_numpy(gumbel_noise(0, np.arange(n, dtype=np.uint64), np.zeros(n, int), 5))
    tokens, logprobs = sample_tokens(logits.expand(n, 5), noise, temperature)
    expected = (logits / temperature).softmax(-1)
    share = torch.bincount(tokens, minlength=5) / n
    assert (share - expected).abs().max() < 0.01
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_names_do_not_collide():
    keys = {sequence_key(f"p{i}@{r}", s) for i in range(50) for r in range(5) for s in range(8)}
    assert len(keys) == 2000
    assert sequence_key("a", 1) != sequence_key("a\x001", 1)


def test_noise_is_finite_at_both_ends_of_the_words(monkeypatch):
    ends = [np.array([[word]], np.uint64) for word in (0, 0xFF, 0xFFFFFF00, 0xFFFFFFFF)]
    monkeypatch.setattr("mimosa.kernels.sampling.philox", lambda counter, key: ends)
    noise = gumbel_noise(0, np.zeros(1, np.uint64), np.zeros(1, int), 4)
    assert np.isfinite(noise).all()
    assert noise[0, 0] == noise[0, 1] < noise[0, 2] == noise[0, 3]
