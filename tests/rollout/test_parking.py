"""Sequences taken out of an engine and gone on with: here, in another one, or in two others."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from engines import SAMPLING, by_name, engine, policy, prompt, requests, same, weights

from mimosa.records import Request

LONG = replace(SAMPLING, max_tokens=20, stop_token_ids=())


def parked_at(slots: int, steps: int, wanted, **settings):
    """Completions until then and what was parked, after so many steps; the engine is empty after that."""
    running = engine(slots, policy(), **{"block": 4, **settings})
    running.submit(wanted, LONG)
    done = [c for _ in range(steps) for c in running.step()]
    parked = running.park()
    assert (running.unfinished, running.pool.free) == (0, slots)
    return done, parked


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 8])
def test_parked_at_any_step_and_resumed_elsewhere_in_any_order(steps):
    """Long prompts are parked in the middle of their prefill too, groups in the middle of their fork."""
    wanted = [*requests(4, 3), Request("long@0", prompt(90), 3)]
    expected = by_name(engine(7).generate(wanted, LONG))
    done, parked = parked_at(5, steps, wanted, block=3, prefill_piece=32)
    assert len(done) + len(parked) == 15
    shuffled = [parked[i] for i in np.random.default_rng(steps).permutation(len(parked))]
    one = engine(3).generate([], LONG, pickle.loads(pickle.dumps(shuffled[::2])))
    other = engine(8, block=5).generate([], LONG, shuffled[1::2])
    same(by_name([*done, *one, *other]), expected)


def test_in_one_slot_nothing_differs_by_a_bit():
    wanted = requests(3, 2)
    expected = by_name(engine(1).generate(wanted, LONG))
    for steps in (1, 3, 4):
        done, parked = parked_at(1, steps, wanted)
        assert any(p.state is not None and len(p.token_ids) for p in parked)
        same(by_name([*done, *engine(1).generate([], LONG, parked)]), expected, exact=True)


def test_parked_in_the_middle_of_generate_again_and_again():
    """Through five engines, a random number of steps in each."""
    wanted, rng = requests(5, 3), np.random.default_rng(0)
    expected = by_name(engine(7).generate(wanted, LONG))
    done, parked, model = [], (), policy()
    for turn in range(5):
        running = engine(int(rng.integers(1, 9)), model, block=2)
        running.submit(wanted if turn == 0 else [], LONG, parked)
        for _ in range(int(rng.integers(1, 4))):
            done += running.step()
        parked = running.park()
    same(by_name([*done, *engine(4, model).generate([], LONG, parked)]), expected)


def test_parked_sequences_go_on_before_new_requests():
    _, parked = parked_at(2, 2, requests(1, 2))
    running = engine(2)
    running.submit([Request("new@0", prompt(4), 1)], LONG, parked)
    running.step()
    assert {s.request.uid for s in running.live.values()} == {"p0@0"}


def test_samples_that_had_not_begun_share_one_prefill():
    _, parked = parked_at(2, 0, [Request("p@0", prompt(40), 6)])
    running = engine(6)
    running.generate([], LONG, parked)
    assert running.stats.prefilled_tokens == 39
    assert running.stats.prompt_tokens == 0  # counted where it was submitted


def test_parking_some_requests_leaves_the_others_running():
    wanted = requests(4, 3)
    expected = by_name(engine(7).generate(wanted, LONG))
    running = engine(5)
    running.submit(wanted, LONG)
    done = running.step()
    parked = running.park({"p1@0", "p3@0"})
    assert {p.request.uid for p in parked} == {"p1@0", "p3@0"}
    assert len(parked) == 6
    while running.unfinished:
        done += running.step()
    same(by_name(done), {name: c for name, c in expected.items() if name[0] in ("p0@0", "p2@0")})
    same(by_name([*done, *running.generate([], LONG, parked)]), expected)


def test_states_of_older_weights_are_made_anew_where_that_is_the_rule():
    first, second = policy(0), policy(1)
    running = engine(4, first, block=4)
    running.submit(requests(3, 1), LONG)
    running.step()
    parked = running.park()
    without = [replace(p, state=None) for p in parked]
    for on_swap, pairs in (("recompute", (parked, without)), ("keep", (parked, parked))):
        found = []
        for sequences in pairs:
            other = engine(4, policy(1), on_swap=on_swap)
            other.update_weights(weights(second, 2))
            found.append(by_name(other.generate([], LONG, sequences)))
        same(*found)
        assert all(c.policy_version.tolist() == [0] * 4 + [2] * 16 for c in found[0].values())


def test_what_does_not_fit_is_named():
    _, parked = parked_at(2, 2, requests(1, 1))
    with pytest.raises(ValueError, match="parked p0@0/0: got a sequence of Sampling"):
        engine(2).generate([], SAMPLING, parked)
    with pytest.raises(ValueError, match=r"exported.0.theta: got \[4, 4\]"):
        engine(2, policy(headdim=16)).generate([], LONG, parked)
    with pytest.raises(ValueError, match="request p0@0: got sample 0 twice"):
        engine(2).generate(requests(1), LONG, parked)
