import math

import pytest
import torch

from mimosa.configs.schema import LossConfig
from mimosa.trainer.loss import policy_loss, supervised_loss, token_weights

RATIOS = torch.tensor([0.5, 0.79, 1.0, 1.2, 1.3, 2.0])


def gradient(advantage: float, config: LossConfig) -> torch.Tensor:
    """d loss / d logprob of single tokens with the given ratios."""
    logprobs = torch.log(RATIOS).requires_grad_()
    zero, one = torch.zeros(6), torch.ones(6)
    policy_loss(logprobs, zero, zero, one * advantage, one, config).loss.backward()
    return logprobs.grad


def test_upper_bound_stops_good_tokens_only():
    torch.testing.assert_close(gradient(1.0, LossConfig()), -RATIOS * torch.tensor([1.0, 1, 1, 1, 0, 0]))


def test_lower_bound_stops_bad_tokens_only():
    torch.testing.assert_close(gradient(-1.0, LossConfig()), RATIOS * torch.tensor([0.0, 0, 1, 1, 1, 1]))


def test_bounds_are_separate():
    wide = LossConfig(clip_low=0.6, clip_high=2.0)
    torch.testing.assert_close(gradient(1.0, wide), -RATIOS)
    torch.testing.assert_close(gradient(-1.0, wide), RATIOS)


def test_tokens_outside_completions_count_for_nothing():
    logprobs = torch.tensor([math.nan, -1.0]).requires_grad_()
    weights = torch.tensor([0.0, 1.0])
    parts = policy_loss(logprobs, torch.zeros(2), torch.tensor([0.0, -1.0]), torch.ones(2), weights, LossConfig())
    assert parts.loss.item() == -1.0
    assert parts.k3.item() == 0.0


def test_clip_counts():
    parts = policy_loss(torch.log(RATIOS), torch.ones(6), torch.zeros(6), torch.ones(6), torch.ones(6), LossConfig())
    assert (parts.clipped_high.item(), parts.clipped_low.item(), parts.entropy.item()) == (2, 0, 6)
    assert parts.k3.item() == pytest.approx(sum(r - 1 - math.log(r) for r in RATIOS.tolist()), rel=1e-5)


def test_weights_of_token_and_sequence_means():
    mask = torch.tensor([0.0, 1, 1, 0, 1])
    bounds = torch.tensor([0, 3, 5], dtype=torch.int32)
    torch.testing.assert_close(token_weights(mask, bounds, 3, 2, "token"), mask / 3)
    torch.testing.assert_close(token_weights(mask, bounds, 3, 2, "sequence"), torch.tensor([0, 0.25, 0.25, 0, 0.5]))


def test_supervised_loss_is_cross_entropy_over_the_response():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 2, 3, 4])
    logprobs = logits.log_softmax(-1)[range(4), targets]
    parts = supervised_loss(logprobs, torch.zeros(4), torch.tensor([0, 0.5, 0.5, 0]))
    torch.testing.assert_close(parts.loss, torch.nn.functional.cross_entropy(logits[1:3], targets[1:3]))
