"""New weights under sequences that are under way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import SAMPLING, by_name, engine, policy, prompt, weights

from mimosa.records import Request

LONG = replace(SAMPLING, max_tokens=12, stop_token_ids=())
WANTED = [Request(f"p{i}@0", prompt(n), 2) for i, n in enumerate((1, 5, 40))]


def swapped(on_swap: str, steps: int = 1, **settings):
    """All completions of a run in which the weights of policy(1) came after so many blocks of 4 tokens."""
    running = engine(6, policy(0), on_swap=on_swap, block=4, **settings)
    running.submit(WANTED, LONG)
    found = [c for _ in range(steps) for c in running.step()]
    running.update_weights(weights(policy(1), 3))
    while running.busy:
        found += running.step()
    return by_name(found), running


@torch.no_grad()
def logprobs_with_kept_state(ids: np.ndarray, start: int, held: int) -> np.ndarray:
    """Of ids[start:], the first `held` tokens of ids read with the old weights and the others with the new ones."""
    old, new = policy(0), policy(1)
    state = old(torch.from_numpy(ids[None, :held]).long(), return_state=True).state if held else None
    out = new(
        torch.from_numpy(ids[None, held:-1]).long(),
        initial_state=state,
        targets=torch.from_numpy(ids[None, held + 1 :]).long(),
    )
    return out.logprobs[0, start - held - 1 :].numpy()


@pytest.mark.parametrize("on_swap", ["keep", "recompute"])
def test_versions_are_right_and_later_logprobs_those_of_the_new_weights(on_swap):
    found, running = swapped(on_swap)
    for request in WANTED:
        for sample in range(2):
            c = found[request.uid, sample]
            assert c.policy_version.tolist() == [0] * 4 + [3] * 8
            ids = np.concatenate([request.token_ids, c.token_ids])
            n = len(request.token_ids)
            with torch.no_grad():
                whole = torch.from_numpy(ids).long()[None]
                before = policy(0)(whole[:, :-1], targets=whole[:, 1:]).logprobs[0, n - 1 : n + 3].numpy()
            np.testing.assert_allclose(c.logprobs[:4], before, atol=1e-5)
            held = n + 3 if on_swap == "keep" else 0  # the last token was not read before the swap
            np.testing.assert_allclose(c.logprobs[4:], logprobs_with_kept_state(ids, n + 4, held), atol=1e-5)
    assert running.stats.swaps == 1
    assert running.stats.swap_seconds > 0


def test_the_divergence_of_kept_states_is_measured_and_changes_nothing():
    kept, running = swapped("keep", swap_sample=4)
    stats = running.stats
    assert stats.swap_sequences == 4
    assert stats.swap_kl / 4 > 1e-3  # another policy altogether
    unmeasured, silent = swapped("keep", swap_sample=0)
    assert (silent.stats.swap_sequences, silent.stats.swap_kl) == (0, 0)
    for name, c in kept.items():
        assert c.token_ids.tolist() == unmeasured[name].token_ids.tolist()
        np.testing.assert_array_equal(c.logprobs, unmeasured[name].logprobs)


def test_the_same_weights_again_diverge_by_rounding_alone():
    running = engine(6, policy(0), block=4)
    running.submit(WANTED, LONG)
    running.step()
    running.update_weights(weights(policy(0), 1))
    assert abs(running.stats.swap_kl) < 1e-6


@pytest.mark.parametrize("on_swap", ["keep", "recompute"])
@pytest.mark.parametrize("steps", [1, 2, 4], ids=["under prefill", "under prefill still", "forked in part"])
def test_a_sample_without_a_token_is_the_work_of_the_new_weights_alone(on_swap, steps):
    running = engine(2, policy(0), on_swap=on_swap, prefill_piece=32, block=2)
    request = Request("long@0", prompt(100), 3)  # one sample more than slots: its state waits on the host
    running.submit([request], LONG)
    found = [c for _ in range(steps) for c in running.step()]
    begun = len(running.live)
    assert (begun, running.unfinished) == (2 if steps == 4 else 0, 3)
    running.update_weights(weights(policy(1), 1))
    while running.busy:
        found += running.step()
    fresh = engine(2, policy(1)).generate([request], LONG)
    for c, wanted in list(zip(sorted(found, key=lambda c: c.sample), fresh, strict=True))[begun:]:
        assert c.policy_version.tolist() == [1] * 12
        assert c.token_ids.tolist() == wanted.token_ids.tolist()
        np.testing.assert_allclose(c.logprobs, wanted.logprobs, atol=1e-5)
