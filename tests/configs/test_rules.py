"""Every rule refuses what it should, says what it wants, and lets the defaults pass."""

from __future__ import annotations

import pytest

from mimosa.configs.keys import known_keys
from mimosa.configs.loader import ConfigError, load, require_data, require_whole_softmax
from mimosa.configs.rules import RULES, TOGETHER, broken
from mimosa.configs.schema import Config


def test_defaults_keep_every_rule():
    assert list(broken(Config(), {})) == []


def test_every_rule_is_about_a_known_key():
    keys = {key for key, _, _ in RULES} | {key for keys, _, _ in TOGETHER for key in keys}
    assert keys <= set(known_keys())


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("device=gpu", "cpu or cuda"),
        ("seed=-1", "at least 0"),
        ("train.mode=async", "sync or one_step_off"),
        ("train.group=1", "at least 2"),
        ("model.dtype=fp16", "fp32 or bf16"),
        ("model.a_activation=relu", "heavy_tail or softplus"),
        ("model.kernels=cuda", "auto, reference or triton"),
        ("model.mimo_rank=3", "1, 2, 4 or 8"),
        ("model.rope_fraction=0.25", "0.5 or 1.0"),
        ("model.chunk_size=-1", "at least 0"),
        ("tokenizer.kind=", "policy, chars, bytes"),
        ("tokenizer.symbols=['']", "not empty"),
        ("data.overlong=truncate", "error or drop"),
        ("data.eval_fraction=1", "between 0 and 1"),
        ("data.eval_fraction=0", "between 0 and 1"),
        ("data.fields.template=Solve it", "{prompt}"),
        ("rollout.actors=0", "at least 1"),
        ("rollout.temperature=0", "above 0"),
        ("rollout.temperature=nan", "above 0"),
        ("rollout.timeout=inf", "finite"),
        ("rollout.slots=-1", "at least 0"),
        ("rollout.prefill_piece=0", "at least 1"),
        ("rollout.memory_share=0", "above 0, at most 1"),
        ("rollout.top_p=0", "above 0, at most 1"),
        ("rollout.top_k=-1", "at least 0"),
        ("rollout.min_p=1.5", "0 to 1"),
        ("rollout.stop=['']", "not empty"),
        ("rollout.deadline=-1", "at least 0"),
        ("rollout.decode=fast", "auto, recurrent or replay"),
        ("rollout.on_swap=drop", "keep or recompute"),
        ("verifier.alarm_share=1.5", "0 to 1"),
        ("reward.truncated=keep", "zero, score or mask"),
        ("learner.zero_stage=0", "1, 2 or 3"),
        ("learner.optimizer.schedule=cosine", "constant or linear"),
        ("learner.optimizer.betas=[0.9]", "two numbers"),
        ("sft.optimizer.betas=[0.9, 1.0]", "two numbers"),
        ("learner.loss.aggregate=mean", "token or sequence"),
        ("learner.loss.clip_low=1", "between 0 and 1"),
        ("learner.loss.clip_high=0", "above 0"),
        ("learner.loss.entropy_coef=nan", "finite"),
        ("checkpoint.keep=0", "at least 1"),
        ("log.wandb=yes", "off, offline or online"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_what_is_wanted(override, wanted):
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    message = str(caught.value)
    assert message.startswith(f"{key}: got ") and "(command line)" in message and wanted in message
    assert value.strip("[]'").split(",")[0] in message


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["model.headdim=48"], "divides d_model * expand"),
        (["model.ngroups=3"], "number of heads"),
        (["model.dt_min=0.2"], "dt_min not above dt_max"),
        (["rollout.gpus=1"], "no gpus with device cpu"),
        (["train.prompts=1", "train.updates=9"], "train.prompts=1, train.group=8"),
        (["rollout.max_tokens=4000"], "token_budget"),
        (["sft.stop_at=0.5", "sft.probe_every=0"], "probe_every above 0"),
        (["rollout.oversample=0.5"], "partial=true"),
    ],
)
def test_settings_that_do_not_fit_together(overrides, part):
    with pytest.raises(ConfigError, match="wanted") as caught:
        load(None, overrides)
    assert part in str(caught.value)
    assert all(override in str(caught.value) for override in overrides)


def test_values_at_the_bounds_pass():
    low = load(None, ["eval.temperature=0", "learner.optimizer.lr=0", "train.updates=512", "model.rope_fraction=1"])
    assert (low.eval.temperature, low.learner.optimizer.lr, low.train.updates, low.model.rope_fraction) == (
        0,
        0,
        512,
        1,
    )
    high = load(None, ["device=cuda", "learner.gpus=1", "learner.loss.clip_high=3", "model.d_intermediate=0"])
    assert (high.learner.gpus, high.learner.loss.clip_high, high.model.d_intermediate) == (1, 3, 0)


def test_data_is_wanted_only_where_rows_are_read():
    config = Config()
    with pytest.raises(ConfigError, match=r"data\.train: got none, wanted one source"):
        require_data(config)
    config.data.train.task = "parity"
    require_data(config)
    config.data.eval.path, config.data.eval.hub = "a", "b"
    with pytest.raises(ConfigError, match=r"data\.eval\.path and data\.eval\.hub"):
        require_data(config)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("verifier.resources={judges: many}", "a mapping to numbers"),
        ("verifier.resources={judges: 0}", "whole numbers or fractions of 1"),
        ("verifier.resources={judges: 1.5}", "whole numbers or fractions of 1"),
        ("verifier.resources.CPU=1", "none of them Ray's own"),
    ],
)
def test_resources_that_ray_would_not_take(override, wanted):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert str(caught.value).startswith("verifier.resources: got {") and wanted in str(caught.value)


@pytest.mark.parametrize("override", ["rollout.top_k=5", "rollout.top_p=0.9", "rollout.min_p=0.1"])
def test_training_draws_from_the_whole_softmax(override):
    require_whole_softmax(load(None, []))
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError, match=rf"{key}: got {value}, wanted \S+ in training"):
        require_whole_softmax(load(None, [override]))
