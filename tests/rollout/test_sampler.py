import math

import numpy as np
import pytest
import torch
from engines import SAMPLING, by_name, engine, policy, requests

from mimosa.kernels.sampling import gumbel_noise
from mimosa.records import Sampling
from mimosa.rollout.sampler import Sampler, allowed, device_noise


class Identity:
    """A head whose logits are the hidden states."""

    draws = False

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


KEYS = np.array([0, 1, 2**63 - 1, 2**64 - 1, 0x9E3779B97F4A7C15], np.uint64)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
@pytest.mark.parametrize("vocab", [1, 17, 130])
def test_noise_made_on_a_device_is_that_of_the_host(seed, vocab):
    positions = np.array([0, 1, 31, 32, 70_000])
    found = device_noise(seed, torch.from_numpy(KEYS.view(np.int64)), torch.from_numpy(positions), vocab)
    np.testing.assert_allclose(found.numpy(), gumbel_noise(seed, KEYS, positions, vocab), rtol=2e-5, atol=2e-6)


def test_noise_made_ahead_is_that_of_every_step(monkeypatch):
    monkeypatch.setattr("mimosa.rollout.sampler.NOISE_ELEMENTS", 3 * 2 * 5)  # three steps at once, of seven
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    keys, positions = torch.tensor([3, 4]), torch.tensor([0, 9])
    sampler = Sampler(Identity(), 5, Sampling(9, seed=2), torch.device("cpu"))
    sampler.begin(7)
    for step in range(7):
        noise = gumbel_noise(2, np.array([3, 4], np.uint64), np.array([step, 9 + step]), 5)
        tokens, logprobs = sampler.draw(logits, keys, positions, step)
        assert tokens.tolist() == (logits + torch.from_numpy(noise)).argmax(-1).tolist()
        torch.testing.assert_close(logprobs, logits.log_softmax(-1)[range(2), tokens])


def kept(probabilities: list[float], **settings) -> list[int]:
    logits = torch.tensor([probabilities]).log()
    return allowed(logits, Sampling(1, **settings))[0].isfinite().nonzero().flatten().tolist()


def test_what_is_allowed():
    p = [0.05, 0.4, 0.3, 0.05, 0.2]
    assert kept(p) == [0, 1, 2, 3, 4]
    assert kept(p, top_k=1) == [1]
    assert kept(p, top_k=3) == [1, 2, 4]
    assert kept(p, top_k=4) == [0, 1, 2, 3, 4]  # equals of the last one
    assert kept(p, top_k=99) == [0, 1, 2, 3, 4]
    assert kept(p, top_p=0.01) == [1]
    assert kept(p, top_p=0.69) == [1, 2]
    assert kept(p, top_p=0.71) == [1, 2, 4]
    assert kept(p, min_p=0.5) == [1, 2, 4]
    assert kept(p, min_p=1.0) == [1]
    assert kept(p, top_k=3, top_p=0.75) == [1, 2]  # of what top-k leaves: 4/9 and 7/9
    assert kept(p, min_p=0.6, top_p=0.56) == [1]


@pytest.mark.parametrize(
    "settings", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 4, "top_p": 0.8}], ids=str
)
def test_tokens_are_drawn_from_what_is_allowed_with_the_logprobs_of_all(settings):
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    n, temperature = 20_000, 0.7
    sampling = Sampling(1, temperature=temperature, seed=5, **settings)
    sampler = Sampler(Identity(), 5, sampling, torch.device("cpu"))
    sampler.begin(1)
    tokens, logprobs = sampler.draw(logits.expand(n, 5), torch.arange(n), torch.zeros(n, dtype=torch.long), 0)
    scaled = logits / temperature
    share = torch.bincount(tokens, minlength=5) / n
    assert (share - allowed(scaled[None], sampling)[0].softmax(-1)).abs().max() < 0.015
    torch.testing.assert_close(logprobs, scaled.log_softmax(-1)[tokens])


def test_top_one_is_greedy():
    likeliest = by_name(engine().generate(requests(), Sampling(6, temperature=0.0)))
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        found = by_name(engine().generate(requests(), Sampling(6, seed=4, **settings)))
        assert all(c.token_ids.tolist() == likeliest[name].token_ids.tolist() for name, c in found.items())


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("temperature", -1.0), ("temperature", math.inf), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5),
     ("min_p", -0.1), ("deadline", -1.0)],
)  # fmt: skip
def test_a_sampling_that_cannot_be_is_named(field, value):
    fields = {name: getattr(SAMPLING, name) for name in Sampling.__slots__} | {field: value}
    with pytest.raises(ValueError, match=rf"sampling.{field}: got {value}"):
        engine(model=policy()).generate(requests(1), Sampling(**fields))
