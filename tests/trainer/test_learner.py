"""One rank in this process: real DeepSpeed, real gloo. Two ranks are in tests/cluster."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import samples, tiny_config
from plain import plain_training

from mimosa.configs.schema import LearnerConfig, OptimizerConfig
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.trainer.checkpoint import load_learner, save_learner
from mimosa.trainer.group import build_engine, decays, learning_rate_factor
from mimosa.trainer.learner import Learner
from mimosa.trainer.pack import pack_updates

pytestmark = pytest.mark.usefixtures("process_group")
OPTIMIZER = OptimizerConfig(lr=1e-3, betas=[0.9, 0.99], schedule="linear", warmup=2)


def policy(**changes) -> Mamba3ForCausalLM:
    torch.manual_seed(0)
    return Mamba3ForCausalLM(tiny_config(**changes))


def learner(stage: int = 2, model: Mamba3ForCausalLM | None = None, **more) -> Learner:
    how = dict(rank=0, world=1, updates=10) | more
    return Learner(model or policy(), LearnerConfig(zero_stage=stage, max_nonfinite=3), OPTIMIZER, **how)


def some_updates(count: int = 2, seed: int = 0):
    return pack_updates(samples(50, seed), count, 1, 200, 0)


def broken(update):
    """The same update with one sequence's advantages not a number."""
    first = update.ranks[0][0]
    advantages = first.advantages.copy()
    advantages[: first.cu_seqlens[1]] = np.nan
    return dataclasses.replace(
        update, ranks=((dataclasses.replace(first, advantages=advantages), *update.ranks[0][1:]),)
    )


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_updates_are_those_of_plain_torch(stage):
    updates, reference = some_updates(3), policy()
    trained = learner(stage)
    report = trained.learn(updates)
    norms = plain_training(reference, updates, OPTIMIZER, 10)
    assert report.updates == 3
    assert report.metrics["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    with trained._whole_parameters() as parameters:
        for name, p in reference.named_parameters():
            torch.testing.assert_close(parameters[name].detach(), p.detach(), atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_non_finite_update_is_dropped_whole(stage):
    (update,) = some_updates(1)
    trained = learner(stage)
    before = trained.checksum()
    report = trained.learn([broken(update)])
    assert (report.updates, report.skipped) == (0, 1)
    assert report.culprits == update.ranks[0][0].uids[: len(report.culprits)]
    assert trained.checksum() == before
    again = trained.learn([update])
    assert again.updates == 1
    assert np.isfinite(list(again.metrics.values())).all()
    assert again.metrics["learning_rate"] == pytest.approx(1e-3)  # the dropped update did not move the schedule


def test_several_in_a_row_stop_the_run_and_name_the_sequences():
    (update,) = some_updates(1)
    trained = learner()
    with pytest.raises(FloatingPointError, match=r"3 updates in a row .*u\d+/0"):
        trained.learn([broken(update)] * 3)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_restored_learner_goes_on_exactly(stage, tmp_path):
    first, second = some_updates(1)[0], some_updates(1, seed=9)[0]
    one = learner(stage)
    one.learn([first])
    save_learner(one, str(tmp_path))
    one.learn([second])
    other = learner(stage, policy(initializer_range=0.5))
    load_learner(other, str(tmp_path))
    other.learn([second])
    assert other.checksum() == one.checksum()


def test_a_checkpoint_of_another_shape_names_the_tensor(tmp_path):
    save_learner(learner(), str(tmp_path))
    with pytest.raises(ValueError, match=r"tensor backbone\.layers\.0\.mixer\.B_bias has shape"):
        load_learner(learner(2, policy(d_state=32)), str(tmp_path))
    with pytest.raises(ValueError, match=r"learner.zero_stage: got 1, wanted 2"):
        load_learner(learner(1), str(tmp_path))


def test_mismatch_is_zero_against_own_logprobs_and_finds_a_planted_one():
    trained = learner(keep_shadow=True)
    (update,) = some_updates(1)
    batch = update.ranks[0][0]
    out = trained.model(
        torch.from_numpy(batch.input_ids)[None], cu_seqlens=torch.from_numpy(batch.cu_seqlens),
        targets=torch.from_numpy(batch.targets)[None],
    )  # fmt: skip
    own = (out.logprobs[0].detach().numpy() * batch.mask).astype(np.float32)
    honest = dataclasses.replace(update, ranks=((dataclasses.replace(batch, logprobs=own),),))
    found = trained.mismatch(honest, None)
    assert found.kl == 0.0 and found.largest == 0.0
    assert found.tokens == int(batch.mask.sum())
    assert found.entropy == pytest.approx(
        float((out.entropy[0].detach() * torch.from_numpy(batch.mask)).sum()) / found.tokens, rel=1e-5
    )

    shifted = own.copy()
    place = int(np.flatnonzero(batch.mask)[3])
    shifted[place] -= 0.5
    planted = dataclasses.replace(update, ranks=((dataclasses.replace(batch, logprobs=shifted),),))
    found_planted = trained.mismatch(planted, None)
    assert found_planted.largest == pytest.approx(0.5, abs=1e-6)
    assert found_planted.kl == pytest.approx((np.exp(0.5) - 1.5) / found.tokens, rel=1e-4)

    sampled_with = trained.export(0)
    trained.learn(some_updates(2))
    assert trained.mismatch(honest, None).kl > 0
    assert trained.mismatch(honest, sampled_with).kl == 0.0


@pytest.mark.parametrize("dtype", ["", "bf16"])
def test_export_is_what_the_checksum_says(dtype):
    trained = learner(3, policy(compute_dtype=dtype))
    trained.learn(some_updates(1))
    assert trained.export(4).checksum == trained.checksum()


def test_weight_decay_spares_what_is_no_matrix():
    decayed = {n.split(".")[-2] for n, p in policy().named_parameters() if decays(n, p)}
    assert decayed == {"embedding", "in_proj", "out_proj", "fc1", "fc2"}
    engine = build_engine(policy(), LearnerConfig(), dataclasses.replace(OPTIMIZER, weight_decay=0.1), 10)
    assert [g["weight_decay"] for g in engine.optimizer.optimizer.param_groups] == [0.1, 0.0]


def test_schedule():
    factor = learning_rate_factor(OptimizerConfig(schedule="linear", warmup=4, min_lr_ratio=0.1), 14)
    assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(9) == pytest.approx(0.55)
    assert factor(14) == factor(99) == pytest.approx(0.1)
