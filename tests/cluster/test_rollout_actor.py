"""Rollout actors: work in slices, other calls in between, a death in mid-run; what comes out is what one engine gives."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from builders import tiny_config

from mimosa.cluster.rollout_actor import RolloutActor, memory_share
from mimosa.cluster.stages import Stages
from mimosa.cluster.watchdog import StopFlag
from mimosa.configs.loader import load
from mimosa.observe.console import Console
from mimosa.policy.blueprint import Blueprint
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer
from mimosa.policy.weights import pack_version, rollout_dtypes, travelling_parameters
from mimosa.records import Request, Sampling
from mimosa.rollout.engine import Engine

TOKENIZER = chars_tokenizer("0123456789+=", ("\\boxed{", "}"))
SHAPE = tiny_config(vocab_size=len(TOKENIZER))
SAMPLING = Sampling(max_tokens=20, seed=1, stop_token_ids=(1,))


@pytest.fixture(scope="module")
def model() -> Mamba3ForCausalLM:
    torch.manual_seed(0)
    model = Mamba3ForCausalLM(SHAPE).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(5)
    return model


def config(*overrides: str):
    return load("smoke", ["rollout.slots=6", "rollout.block=2", "rollout.swap_sample=2", *overrides])


def requests(count: int, samples: int = 4, name: str = "p") -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(f"{name}{i}@0", rng.integers(3, 17, 2 + i % 7).astype(np.int32), samples) for i in range(count)]


def weights(model: Mamba3ForCausalLM, number: int = 0):
    return pack_version(number, travelling_parameters(model), rollout_dtypes(model))


def check(found, model, wanted) -> None:
    """Every sample once, with the tokens and logprobs of an engine of other slots and blocks."""
    expected = {(c.uid, c.sample): c for c in Engine(model, TOKENIZER, slots=9, block=5).generate(wanted, SAMPLING)}
    assert sorted((c.uid, c.sample) for c in found) == sorted(expected)
    for c in found:
        assert c.token_ids.tolist() == expected[c.uid, c.sample].token_ids.tolist()
        np.testing.assert_allclose(c.logprobs, expected[c.uid, c.sample].logprobs, atol=1e-5)


@pytest.fixture
def actor(model) -> RolloutActor:
    actor = RolloutActor(Blueprint(SHAPE, TOKENIZER, "auto"), config())
    actor.update_weights(weights(model))
    return actor


def test_a_slice_ends_with_its_groups(actor, model):
    actor.submit(requests(5), SAMPLING)
    first = actor.work(60.0, 1)
    whole = [uid for uid in {c.uid for c in first} if sum(c.uid == uid for c in first) == 4]
    assert len(whole) >= 1
    assert actor.work(0.0, 5) == []
    check([*first, *actor.work(60.0, 99)], model, requests(5))
    assert actor.work(60.0, 1) == []  # nothing is left to wait for


def test_other_calls_between_slices_change_nothing(actor, model):
    actor.submit(requests(5), SAMPLING)
    first = actor.work(60.0, 1)
    others = actor.generate(requests(3, 2, "other"), replace(SAMPLING, temperature=0.0))
    assert [c.uid for c in others] == [r.uid for r in requests(3, 2, "other") for _ in range(2)]
    first += actor.work(60.0, 1)
    actor.update_weights(weights(model, 3))
    rest = actor.work(60.0, 99)
    check([*first, *rest], model, requests(5))
    assert {int(v) for c in rest for v in c.policy_version} == {0, 3}
    stats = actor.stats()
    assert stats.parked == stats.resumed > 0
    assert stats.swap_sequences == 2
    assert abs(stats.swap_kl) < 1e-6  # the same weights again


def test_abort_forgets_what_was_submitted(actor, model):
    actor.submit(requests(5), SAMPLING)
    actor.work(0.01, 1)
    actor.abort()
    check(actor.generate(requests(2), SAMPLING), model, requests(2))


def test_an_actor_without_weights_refuses_to_work():
    actor = RolloutActor(Blueprint(SHAPE, TOKENIZER, "auto"), config())
    for call in (actor.generate, actor.submit):
        with pytest.raises(RuntimeError, match="no weights have arrived whole"):
            call(requests(1), SAMPLING)


def test_actors_of_a_device_share_its_memory():
    assert memory_share(config("rollout.actors=4")) == pytest.approx(0.8 / 4)
    assert memory_share(config("device=cuda", "rollout.gpus=0.5")) == pytest.approx(0.4)
    assert memory_share(config("device=cuda", "rollout.actors=4")) == pytest.approx(0.8)


@pytest.mark.timeout(200)
def test_an_actor_killed_in_mid_run_changes_nothing(ray_cluster, model):
    settings, said = config("rollout.actors=2", "rollout.slots=3"), []
    console = Console(False)
    console.warn = said.append
    stages = Stages(Blueprint(SHAPE, TOKENIZER, "auto"), settings, console, StopFlag(), judged=False)
    try:
        stages.publish(ray.put(weights(model)))
        stages.settle()
        victim = ray.get(stages.rollouts.members[0].pid.remote())
        found = []
        for completions in stages.completions(requests(60, 2), SAMPLING):
            if not found:
                os.kill(victim, signal.SIGKILL)
            found += completions
    finally:
        stages.close()
    check(found, model, requests(60, 2))
    assert any("rollout actor 0 died" in text for text in said)
