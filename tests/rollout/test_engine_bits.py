"""On kernels whose rows do not depend on their neighbours, an engine's completions are the same bit for bit in every way of making them.

A very small policy, since Triton's interpreter runs the kernels here.
"""

from dataclasses import replace

import numpy as np
import pytest
from engines import SAMPLING, by_name, logprobs_of, policy, prompt, same, weights
from engines import engine as engine_of

from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.records import Request
from mimosa.rollout.engine import Engine

C = 3  # tokens of a chunk
SHORT = replace(SAMPLING, max_tokens=5)
WANTED = [Request("a@0", prompt(C + 1), 2), Request("b@0", prompt(2 * C), 1), Request("c@0", prompt(1), 1)]


@pytest.fixture(scope="module")
def model() -> Mamba3ForCausalLM:
    model = policy(d_model=16, n_layer=1, d_intermediate=0, headdim=16, expand=1, chunk_size=C)
    model.kernels = "triton"
    return model


@pytest.fixture(scope="module")
def alone(model):
    """By one slot, a sequence after the other."""
    return by_name(engine(model, 1).generate(WANTED, SHORT))


def engine(model: Mamba3ForCausalLM, slots: int, **settings) -> Engine:
    return engine_of(slots, model, mode="replay", **settings)


def test_logprobs_are_those_of_the_learner_s_forward_pass(model, alone):
    for request in WANTED:
        for sample in range(request.samples):
            c = alone[request.uid, sample]
            np.testing.assert_array_equal(c.logprobs, logprobs_of(model, request.token_ids, c))


@pytest.mark.parametrize(("slots", "block"), [(3, 2), (64, 32)])
def test_slots_blocks_and_order_change_no_bit(model, alone, slots, block):
    found = engine(model, slots, block=block, prefill_piece=C).generate(WANTED[::-1], SHORT)
    same(by_name(found), alone, exact=True)


def test_parked_and_resumed_in_another_engine_not_a_bit_differs(model, alone):
    running = engine(model, 3, block=1)
    running.submit(WANTED, SHORT)
    done = [c for _ in range(3) for c in running.step()]
    parked = running.park()
    assert any(p.state is not None and len(p.token_ids) for p in parked)
    same(by_name([*done, *engine(model, 2, block=3).generate([], SHORT, parked[::-1])]), alone, exact=True)


def test_a_swap_to_the_same_weights_changes_no_bit_when_states_are_made_again(model, alone):
    running = engine(model, 4, block=2, on_swap="recompute", swap_sample=1)
    running.submit(WANTED, SHORT)
    found = running.step()
    running.update_weights(weights(model, 1))
    while running.busy:
        found += running.step()
    same(by_name(found), alone, exact=True)
    assert running.stats.swap_kl == 0
