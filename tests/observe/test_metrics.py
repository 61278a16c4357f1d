import math

import pytest

from mimosa.observe.metrics import engine_metrics, length_metrics
from mimosa.records import RolloutStats


def test_engines_are_counted_between_two_looks():
    before = RolloutStats(
        prompt_tokens=10, decoded_rows=100, idle_rows=50, slot_steps=400, swap_kl=1.0, swap_sequences=2
    )
    now = RolloutStats(prompt_tokens=25, decoded_rows=300, idle_rows=90, slot_steps=800, swap_kl=1.5, swap_sequences=4)
    row = engine_metrics(before, now)
    assert row["rollout/prompt_tokens"] == 15
    assert row["rollout/slots_in_use"] == pytest.approx(160 / 400)
    assert row["rollout/idle_rows"] == pytest.approx(40 / 200)
    assert row["rollout/swap_kl"] == pytest.approx(0.25)
    still = engine_metrics(now, now)
    assert (still["rollout/prompt_tokens"], still["rollout/slots_in_use"]) == (0, 0)
    assert math.isnan(still["rollout/swap_kl"])
    assert engine_metrics(now, before)["rollout/prompt_tokens"] == 0  # an engine died and its successor counts from 0


def test_lengths_of_what_is_trained_against_what_was_sampled():
    assert length_metrics([2, 4, 9], [2, 4]) == {"completion/length_trained": 3.0, "completion/length_bias": -2.0}
    assert all(math.isnan(value) for value in length_metrics([2, 4], []).values())
