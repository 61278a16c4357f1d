"""What a setting may be beyond its type: a table of single keys, and one of settings that must fit together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

from .errors import ConfigError
from .schema import Config

Rule = tuple[str, Callable[[Any], bool], str]


def one_of(key: str, *values: Any) -> Rule:
    words = [str(value) for value in values]
    return key, lambda value: value in values, f"{', '.join(words[:-1])} or {words[-1]}"


def at_least(low: float, *keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda value: low <= value < math.inf, f"at least {low}") for key in keys)


def above(low: float, *keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda value: low < value < math.inf, f"a finite number above {low}") for key in keys)


def share(*keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda value: 0 <= value <= 1, "a number from 0 to 1") for key in keys)


def custom_resources(amounts: Mapping[str, float]) -> bool:
    """Whether Ray takes them: it keeps its own names apart, and knows fractions below 1 alone."""
    own = {"cpu", "gpu", "memory", "object_store_memory"}
    return all(0 < n < math.inf and (n < 1 or n == int(n)) and name.lower() not in own for name, n in amounts.items())


def optimizer(section: str) -> tuple[Rule, ...]:
    return (
        *at_least(0, f"{section}.lr", f"{section}.warmup", f"{section}.weight_decay", f"{section}.grad_clip"),
        *above(0, f"{section}.eps"),
        *share(f"{section}.min_lr_ratio"),
        one_of(f"{section}.schedule", "constant", "linear"),
        (f"{section}.betas", lambda betas: len(betas) == 2 and all(0 <= b < 1 for b in betas), "two numbers in [0, 1)"),
    )


RULES: tuple[Rule, ...] = (
    *at_least(0, "seed"),
    one_of("device", "cpu", "cuda"),
    *at_least(0, "ray.cpus"),
    *at_least(80, "ray.object_store_mb"),  # Ray starts no store below 75 MiB
    one_of("model.a_activation", "heavy_tail", "softplus"),
    *at_least(1, "model.d_model", "model.n_layer", "model.headdim", "model.expand", "model.ngroups"),
    *at_least(4, "model.d_state"),  # fewer leave rope_fraction 0.5 without an angle
    *at_least(0, "model.d_intermediate", "model.chunk_size"),
    one_of("model.mimo_rank", 1, 2, 4, 8),
    one_of("model.rope_fraction", 0.5, 1.0),
    *above(0, "model.dt_min", "model.dt_max"),
    one_of("model.dtype", "fp32", "bf16"),
    one_of("model.head_dtype", "fp32", "bf16"),
    one_of("model.kernels", "auto", "reference", "triton"),
    ("tokenizer.kind", bool, "policy, chars, bytes, or a Hugging Face name or folder"),
    ("tokenizer.symbols", all, "texts that are not empty"),
    *at_least(0, "data.train.limit", "data.eval.limit"),
    ("data.fields.prompt", bool, "the name of a column"),
    ("data.fields.ground_truth", bool, "the name of a column"),
    ("data.fields.template", lambda text: "{prompt}" in text, "a text with {prompt} in it"),
    ("data.eval_fraction", lambda value: 0 < value < 1, "a number between 0 and 1"),
    *at_least(1, "data.eval_prompts", "data.max_prompt_tokens"),
    one_of("data.overlong", "error", "drop"),
    *at_least(1, "rollout.actors", "rollout.threads", "rollout.max_tokens", "rollout.prefill_piece"),
    *at_least(
        0,
        "rollout.gpus",
        "rollout.slots",
        "rollout.block",
        "rollout.swap_sample",
        "rollout.deadline",
        "rollout.oversample",
    ),
    *at_least(0, "rollout.top_k"),
    *share("rollout.min_p"),
    ("rollout.top_p", lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    ("rollout.memory_share", lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    one_of("rollout.decode", "auto", "recurrent", "replay"),
    one_of("rollout.on_swap", "keep", "recompute"),
    ("rollout.stop", all, "texts that are not empty"),
    *above(0, "rollout.temperature", "rollout.timeout"),
    *at_least(1, "verifier.actors", "verifier.batch"),
    *at_least(2, "verifier.alarm_window"),
    *at_least(0, "verifier.retries"),
    *above(0, "verifier.timeout"),
    *share("verifier.alarm_share"),
    (
        "verifier.resources",
        custom_resources,
        "whole numbers or fractions of 1 by name, none of them Ray's own CPU, GPU or memory",
    ),
    ("reward.verifier", bool, "the name of a verifier"),
    one_of("reward.truncated", "zero", "score", "mask"),
    *at_least(1, "learner.actors", "learner.threads", "learner.token_budget", "learner.max_nonfinite"),
    *at_least(0, "learner.gpus"),
    *above(0, "learner.timeout"),
    one_of("learner.zero_stage", 1, 2, 3),
    *optimizer("learner.optimizer"),
    *optimizer("sft.optimizer"),
    ("learner.loss.clip_low", lambda value: 0 < value < 1, "a number between 0 and 1"),
    *above(0, "learner.loss.clip_high"),
    one_of("learner.loss.aggregate", "token", "sequence"),
    ("learner.loss.entropy_coef", math.isfinite, "a finite number"),
    *at_least(1, "train.steps", "train.prompts", "train.updates"),
    *at_least(2, "train.group"),  # one sample has no group to be compared with
    *at_least(0, "train.eval_every", "train.mismatch_sequences", "train.max_restarts"),
    one_of("train.mode", "sync", "one_step_off"),
    *at_least(0, "sft.steps", "sft.probe_every"),
    *at_least(1, "sft.batch", "sft.probe_prompts"),
    *share("sft.stop_at"),
    *at_least(1, "eval.samples"),
    *at_least(0, "eval.temperature"),
    *at_least(0, "checkpoint.every"),
    *at_least(1, "checkpoint.keep"),
    one_of("log.wandb", "off", "offline", "online"),
)

TOGETHER: tuple[tuple[tuple[str, ...], Callable[..., bool], str], ...] = (
    (
        ("model.headdim", "model.d_model", "model.expand"),
        lambda headdim, width, expand: width * expand % headdim == 0,
        "a headdim that divides d_model * expand",
    ),
    (
        ("model.ngroups", "model.d_model", "model.expand", "model.headdim"),
        lambda groups, width, expand, headdim: (width * expand // headdim) % groups == 0,
        "an ngroups that divides the number of heads, d_model * expand / headdim",
    ),
    (("model.dt_min", "model.dt_max"), lambda low, high: low <= high, "dt_min not above dt_max"),
    (
        ("device", "rollout.gpus", "learner.gpus"),
        lambda device, *gpus: device == "cuda" or not any(gpus),
        "no gpus with device cpu",
    ),
    (
        ("train.updates", "train.prompts", "train.group"),
        lambda updates, prompts, group: updates <= prompts * group,
        "a sample or more for every update of a step, prompts * group in all",
    ),
    (
        ("learner.token_budget", "data.max_prompt_tokens", "rollout.max_tokens"),
        lambda budget, prompt, completion: budget >= prompt + completion,
        "a token_budget that holds the longest prompt with its completion",
    ),
    (
        ("rollout.oversample", "rollout.partial"),
        lambda oversample, partial: not oversample or partial,
        "oversample above 0 with partial=true alone",
    ),
    (
        ("sft.stop_at", "sft.probe_every"),
        lambda stop_at, every: stop_at == 0 or every > 0,
        "probes to stop by, probe_every above 0",
    ),
)


def broken(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    """One line for each rule that `config` breaks; `origins` says where a key was set."""
    for key, fits, wanted in RULES:
        value = setting(config, key)
        if not fits(value):
            yield f"{key}: got {value!r} ({origins.get(key, 'default')}), wanted {wanted}"
    for keys, fit_together, wanted in TOGETHER:
        values = [setting(config, key) for key in keys]
        if not fit_together(*values):
            given = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            yield f"{given}: wanted {wanted}"


def require_data(config: Config) -> None:
    """For commands that read rows. Raises ConfigError unless train has exactly one source and eval at most one."""
    for name, fewest in (("train", 1), ("eval", 0)):
        source = getattr(config.data, name)
        given = [kind for kind in ("task", "path", "hub") if getattr(source, kind)]
        if not fewest <= len(given) <= 1:
            came = " and ".join(f"data.{name}.{kind}" for kind in given) or "none"
            wanted = f"data.{name}.task, data.{name}.path or data.{name}.hub"
            raise ConfigError(f"data.{name}: got {came}, wanted one source: {wanted}")


def require_whole_softmax(config: Config) -> None:
    """For commands that train. Raises ConfigError for a sampling whose logprobs are not those of the distribution drawn from."""
    for key, whole in (("rollout.top_k", 0), ("rollout.top_p", 1.0), ("rollout.min_p", 0.0)):
        if setting(config, key) != whole:
            raise ConfigError(
                f"{key}: got {setting(config, key)}, wanted {whole} in training, whose ratios need the logprobs of the whole softmax"
            )


def setting(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, key.split("."), config)
