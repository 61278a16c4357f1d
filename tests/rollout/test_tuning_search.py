from dataclasses import replace

import pytest

from mimosa.records import FAILED_TRIAL, EngineSetting, Trial
from mimosa.rollout.tuning import ladders, parts_of, search, together

START = EngineSetting(actors=1, slots=32, mode="recurrent", block=4, prefill_piece=2048)


def peak(slots: int, block: int, actors: int, mode: str):
    """tokens/s with a maximum at these values, falling off by the factors to it."""
    calls: list[EngineSetting] = []

    def off(value: int, best: int) -> float:
        return max(value / best, best / value)

    def measure(s: EngineSetting) -> float:
        calls.append(s)
        return 1e4 * (2 if s.mode == mode else 1) / (off(s.slots, slots) * off(s.block, block) * off(s.actors, actors))

    return measure, calls


@pytest.mark.parametrize(
    ("slots", "block", "actors", "mode"), [(256, 16, 4, "replay"), (4, 1, 1, "recurrent"), (32, 4, 2, "replay")]
)
def test_the_peak_is_found_from_either_side_with_few_measurements(slots, block, actors, mode):
    measure, calls = peak(slots, block, actors, mode)
    best = search(START, ladders(START, 512, 4, on_gpu=True), measure)
    assert (best.slots, best.block, best.actors, best.mode) == (slots, block, actors, mode)
    assert len(set(calls)) < 25


def test_the_search_ends_where_the_time_does_with_the_best_so_far():
    measure, calls = peak(256, 16, 4, "replay")
    best = search(START, ladders(START, 512, 4, on_gpu=True), lambda s: measure(s) if len(calls) < 3 else None)
    assert best == EngineSetting(1, 128, "recurrent", 4, 2048)
    assert search(START, ladders(START, 512, 4, on_gpu=True), lambda s: None) == START


def test_a_setting_that_cannot_be_had_is_passed_by():
    measure, _ = peak(256, 4, 1, "replay")
    best = search(START, ladders(START, 512, 1, on_gpu=True), lambda s: 0.0 if s.mode == "replay" else measure(s))
    assert (best.slots, best.mode) == (256, "recurrent")


def test_start_and_limits_are_on_the_ladders():
    choices = ladders(EngineSetting(3, 100, "recurrent", 5, 3000), 48, 2, on_gpu=False)
    assert choices["slots"] == [4, 8, 16, 32, 48, 100]
    assert choices["actors"] == [1, 2, 3]
    assert 5 in choices["block"] and 3000 in choices["prefill_piece"]
    assert choices["mode"] == ["recurrent"]


def trial(**changes) -> Trial:
    fields = dict(
        seconds=2.0, tokens=1000, rounds=1, steps=100, decode_seconds=1.5, prefill_seconds=0.4, slots_in_use=0.5,
        host_gap=0.25, bytes_per_slot=10, weight_bytes=1000, token_bytes=20.0,
    )  # fmt: skip
    return Trial(**{**fields, **changes})


def test_parts_of_the_time_by_hand_and_in_sum():
    found = parts_of(trial(), bandwidth=500_000.0)  # weights 100 x 1000 B = 0.2 s of 2, state 1000 x 20 B = 0.04 s
    expected = {"weights": 0.05, "state bytes": 0.02, "host": 0.125, "prefill": 0.15, "tail": 0.05 + 0.125}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1.0)


def test_processes_add_up_and_share_the_bandwidth():
    one = together(START, [trial()], 1e6)
    two = together(START, [trial(), trial(seconds=4.0)], 1e6)
    assert one.tokens_per_second == 500 and two.tokens_per_second == 750
    assert one.step_ms == pytest.approx(15.0) == two.step_ms
    assert one.floor_share == pytest.approx((100 * 1000 + 1000 * 20) / 2 / 1e6)
    assert two.floor_share == pytest.approx(1.5 * one.floor_share)
    assert two.parts["weights"] == pytest.approx(one.parts["weights"] * 2 * (1 + 0.5) / 2)
    assert together(START, [trial(), trial(rounds=0)], 1e6).whole is False


def test_one_process_that_fails_fails_the_setting():
    failed = replace(FAILED_TRIAL, failure="out of memory")
    found = together(START, [trial(), failed], 1e6)
    assert (found.tokens_per_second, found.failure) == (0.0, "out of memory")
