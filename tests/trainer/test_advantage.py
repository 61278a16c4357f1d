import numpy as np
import pytest
from builders import group

from mimosa.trainer.advantage import compute_advantages


def test_group_mean_is_subtracted():
    found = compute_advantages([group([1, 0, 0, 1, 0])], divide_by_std=False)
    np.testing.assert_allclose([s.advantage for s in found.samples], [0.6, -0.4, -0.4, 0.6, -0.4])
    assert [s.sample for s in found.samples] == [0, 1, 2, 3, 4]


def test_standard_deviation_by_option():
    rewards = np.array([1.0, 0.5, 0.0])
    found = compute_advantages([group(rewards)], divide_by_std=True)
    np.testing.assert_allclose([s.advantage for s in found.samples], (rewards - 0.5) / (rewards.std() + 1e-4))


def test_flat_groups_are_counted_not_trained_on():
    found = compute_advantages([group([1, 1, 1]), group([0, 0]), group([0, 1])], divide_by_std=True)
    assert found.zero_variance_groups == 2
    assert len(found.samples) == 2


def test_failed_verifiers_are_masked_and_do_not_move_the_mean():
    found = compute_advantages([group([1, None, 0, "skipped"])], divide_by_std=False)
    assert [(s.sample, s.advantage) for s in found.samples] == [(0, 0.5), (2, -0.5)]
    assert found.masked_samples == 2


@pytest.mark.parametrize("scores", [[None, None], [1, None]], ids=["none", "one"])
def test_a_group_without_two_scores_has_no_signal(scores):
    found = compute_advantages([group(scores)], divide_by_std=False)
    assert (found.samples, found.unscored_groups, found.zero_variance_groups) == ((), 1, 0)


def test_sequence_is_prompt_then_completion():
    (first, _) = compute_advantages([group([1, 0], prompt=[5, 6, 7])], divide_by_std=False).samples
    assert first.token_ids[:3].tolist() == [5, 6, 7]
    assert first.prompt_tokens == 3
    assert len(first.token_ids) - 3 == len(first.logprobs)
