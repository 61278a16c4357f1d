"""Two learner ranks with their rollout actors: what is broadcast is the same everywhere, and what one process would have learned."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from builders import samples, tiny_config
from plain import plain_training

from mimosa.cluster.learner_actor import LearnerTask
from mimosa.cluster.learners import LearnerGroup, LearnerLost
from mimosa.cluster.stages import Stages
from mimosa.cluster.watchdog import StopFlag
from mimosa.configs.schema import Config, LearnerConfig, OptimizerConfig, RolloutConfig
from mimosa.observe.console import Console
from mimosa.policy.blueprint import Blueprint
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer
from mimosa.policy.weights import version_tensor
from mimosa.trainer.pack import pack_updates

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
OPTIMIZER = OptimizerConfig(lr=1e-3)


@pytest.fixture(scope="module")
def stages(request, ray_cluster):
    """Two rollout actors of a dtype, and what they were made of."""
    blueprint = Blueprint(tiny_config(compute_dtype=request.param), chars_tokenizer("0123456789+=-*"), "auto")
    config = Config(seed=5, rollout=RolloutConfig(actors=2, slots=4))
    made = Stages(blueprint, config, Console(False), StopFlag(), judged=False)
    yield request.param, blueprint, made
    made.close()


@pytest.mark.parametrize(("stages", "stage"), [("", 2), ("bf16", 2), ("bf16", 3)], indirect=["stages"])
def test_one_version_everywhere(stages, stage, tmp_path):
    dtype, blueprint, stages = stages
    learning = LearnerConfig(actors=2, threads=1, zero_stage=stage, optimizer=OPTIMIZER)
    config = replace(stages.config, learner=learning)
    updates = pack_updates(samples(41), 2, ranks=2, token_budget=150, seed=0)
    learners = LearnerGroup(blueprint, config, LearnerTask("", False, 10))
    try:
        learners.start()
        reports = learners.call("learn", updates)
        assert [r.updates for r in reports] == [2, 2]
        assert reports[0].metrics == reports[1].metrics
        reference = learners.export(1)
        stages.publish(reference)
        stages.settle()
        version = ray.get(reference)
        sums = learners.call("checksum") + [ray.get(actor.checksum.remote()) for actor in stages.rollouts.members]
        assert sums == [version.checksum] * 4
        assert bool(version.bfloat16) == (dtype == "bf16")
        learners.call("save_policy", str(tmp_path))
        os.kill(learners.call("pid")[0], signal.SIGKILL)
        with pytest.raises(LearnerLost, match="a learner rank died in export"):  # not a reference to no weights
            learners.export(2)
    finally:
        learners.kill()
    torch.manual_seed(5)
    expected = Mamba3ForCausalLM(blueprint.config)
    norms = plain_training(expected, updates, OPTIMIZER, 10)
    assert reports[0].metrics["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-3)
    saved = dict(Mamba3ForCausalLM.from_pretrained(tmp_path).named_parameters())
    for name, p in expected.named_parameters():
        torch.testing.assert_close(saved[name], p, atol=1e-5 if not dtype else 1e-3, rtol=1e-3, msg=name)
        sent = version_tensor(version, name)
        assert torch.equal(sent, saved[name].to(sent.dtype)), name
