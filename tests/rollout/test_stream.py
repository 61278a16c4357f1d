"""The train stream gives every row once a round, in an order of its own, and goes on exactly where it was."""

from __future__ import annotations

import pytest

from mimosa.records import Prompt
from mimosa.rollout.stream import PromptStream, StreamState

ORDER_OF_SEED_0 = ["r0@0", "r2@0", "r4@0", "r1@0", "r3@0", "r5@0"]


def rows(count):
    return [Prompt(id=f"r{number}", prompt=str(number), verifier="exact", ground_truth="1") for number in range(count)]


def uids(taken):
    assert all(uid.startswith(f"{row.id}@") for row, uid in taken)
    return [uid for _, uid in taken]


def test_a_round_is_a_permutation_and_rounds_differ():
    stream = PromptStream(rows(17), seed=3)
    first, second = (uids(stream.take(17)) for _ in range(2))
    assert sorted(first) == sorted(f"r{number}@0" for number in range(17))
    assert sorted(second) == sorted(f"r{number}@1" for number in range(17))
    assert [uid[:-2] for uid in first] != [uid[:-2] for uid in second]


@pytest.mark.parametrize("part", [1, 3, 5, 7, 23])
def test_the_order_does_not_depend_on_how_much_is_taken_at_once(part):
    whole = uids(PromptStream(rows(7), seed=0).take(part * 9))
    stream = PromptStream(rows(7), seed=0)
    assert [uid for _ in range(9) for uid in uids(stream.take(part))] == whole
    assert len(set(whole)) == len(whole)


def test_a_restored_stream_continues_exactly():
    stream = PromptStream(rows(11), seed=5)
    for taken in (0, 4, 11, 25):
        stream.take(taken)
        other = PromptStream(rows(11), seed=5)
        other.restore(stream.state())
        assert other.state() == stream.state()
        assert uids(other.take(30)) == uids(stream.take(30))


def test_seeds_give_orders_that_stay_what_they_are():
    assert uids(PromptStream(rows(6), seed=0).take(6)) == ORDER_OF_SEED_0
    assert uids(PromptStream(rows(6), seed=1).take(6)) != ORDER_OF_SEED_0
    assert uids(PromptStream(rows(3), seed=1 << 40, shuffle=False).take(4)) == ["r0@0", "r1@0", "r2@0", "r0@1"]
    high, low = (uids(PromptStream(rows(30), seed=seed).take(30)) for seed in (1 << 40, 0))
    assert high != low


def test_a_position_outside_the_rows_is_refused():
    with pytest.raises(ValueError, match=r"index=12.*rounds of 11 rows"):
        PromptStream(rows(11), seed=0).restore(StreamState(0, 12))
    with pytest.raises(ValueError, match="no rows"):
        PromptStream([], seed=0)
