"""From the configuration to what a run works on: tokenizer, blueprint of the policy, rows split and encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..configs.schema import Config, SourceConfig
from ..policy.blueprint import Blueprint, policy_config
from ..policy.tokenizer import load_tokenizer
from ..records import Prompt, Request, Sample, Sampling, Task
from ..rewards import registry
from ..rollout.encoder import encode, encode_responses
from ..rollout.prompts import drop_shared, load_rows, split, tokenizer_needs


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows for training and for evaluation, with the tokens of every prompt."""

    train: tuple[Prompt, ...]
    evaluation: tuple[Prompt, ...]
    tokens: dict[str, np.ndarray]  # prompt id: int32 [prompt tokens]
    notes: tuple[str, ...]  # what was left out and why

    @property
    def verifiers(self) -> tuple[str, ...]:
        """Names of the verifiers that judge these rows."""
        return tuple(sorted({row.verifier for row in (*self.train, *self.evaluation)}))

    def task(self, prompt: Prompt, uid: str, samples: int) -> Task:
        return Task(prompt, Request(uid, self.tokens[prompt.id], samples))

    def tasks_of(self, uids: Iterable[str], samples: int) -> list[Task]:
        """Training tasks by the uids under which the stream drew them."""
        rows = {prompt.id: prompt for prompt in self.train}
        return [self.task(rows[uid.rpartition("@")[0]], uid, samples) for uid in uids]

    def evaluation_tasks(self, most: int, samples: int = 1) -> list[Task]:
        """The same evaluation prompts every time, under names that no training round uses."""
        return [self.task(p, f"{p.id}@eval", samples) for p in self.evaluation[:most]]


def build_tokenizer(config: Config) -> PreTrainedTokenizerFast:
    """The tokenizer that the configuration names; one of characters knows what the train and eval tasks need."""
    needs = [tokenizer_needs(s, config.data.fields) for s in (config.data.train, config.data.eval) if has_source(s)]
    alphabet = "".join(sorted({letter for letters, _ in needs for letter in letters}))
    symbols = tuple(dict.fromkeys(symbol for _, symbols in needs for symbol in symbols))
    return load_tokenizer(config.tokenizer, config.model.path, alphabet, symbols)


def build_blueprint(config: Config, tokenizer: PreTrainedTokenizerFast) -> Blueprint:
    return Blueprint(policy_config(config.model, tokenizer), tokenizer, config.model.kernels)


def load_workload(config: Config, tokenizer: PreTrainedTokenizerFast) -> Workload:
    """Load, split, check and encode all rows. Raises ValueError naming the row for one that does not fit."""
    fit_reward(config)
    data, verifier = config.data, config.reward.verifier
    notes: list[str] = []
    rows = load_rows(data.train, data.fields, verifier, note=notes.append)
    if has_source(data.eval):
        # Two files may use the same ids (row numbers, when they have none); the token table is keyed by them.
        others = load_rows(data.eval, data.fields, verifier, note=notes.append)
        held_out = [replace(row, id=f"eval:{row.id}") for row in others]
        rows, shared = drop_shared(rows, held_out)
        if shared:
            notes.append(f"{shared} training rows left out: their prompt is an evaluation prompt")
    else:
        rows, held_out = split(rows, data.eval_fraction)
    rows, tokens, dropped = encode(rows, tokenizer, data.max_prompt_tokens, data.overlong)
    held_out, eval_tokens, eval_dropped = encode(held_out, tokenizer, data.max_prompt_tokens, data.overlong)
    if dropped + eval_dropped:
        notes.append(
            f"{dropped + eval_dropped} rows dropped: longer than data.max_prompt_tokens={data.max_prompt_tokens}"
        )
    # A hash of the key decided who is held out; shuffling makes a part of the evaluation set a fair sample of it.
    order = np.random.default_rng(config.seed).permutation(len(held_out))
    _check_named([*rows, *held_out], verifier)
    if verifier != Config().reward.verifier and all(row.verifier != verifier for row in rows):
        notes.append(
            f"reward.verifier={verifier} judges no training row: every row names its own ({rows[0].verifier}); with "
            "data.fields.verifier= (empty) no row names one"
        )
    table = {p.id: t for p, t in zip([*rows, *held_out], [*tokens, *eval_tokens], strict=True)}
    return Workload(tuple(rows), tuple(held_out[i] for i in order), table, tuple(notes))


def check_rewards(config: Config) -> list[str]:
    """The settings' verifier, loaded once to see that it can be; from here on its file has an absolute path. Raises ValueError.
    Returns what there is to say of it."""
    reward = config.reward
    reward.verifier, reward.options = registry.absolute(reward.verifier, reward.options)
    return registry.check(reward.verifier, reward.options)


def fit_reward(config: Config) -> None:
    """Have the bare answers of tasks with `boxed: false` read as such: a run has one set of verifier options.

    Raises ValueError when a setting or the other source says otherwise.
    """
    sources, reward = [s for s in (config.data.train, config.data.eval) if has_source(s)], config.reward
    bare = [bool(source.task) and source.options.get("boxed") is False for source in sources]
    if not any(bare):
        return
    if not all(bare):
        raise ValueError("data options.boxed: got false for one source alone, wanted it for both or for none")
    if reward.options not in ({}, {"boxed": False}):
        raise ValueError(f"reward.options: got {reward.options}, wanted none where the task says boxed=false")
    reward.verifier, reward.options = "exact", {"boxed": False}


def has_source(source: SourceConfig) -> bool:
    return bool(source.task or source.path or source.hub)


def _check_named(rows: list[Prompt], verifier: str) -> None:
    """A row may name a verifier that is known by name, or the settings' own: data starts no other code."""
    known = {*registry.known(), verifier}
    for row in rows:
        if row.verifier not in known:
            raise ValueError(f"prompt {row.id!r}: {registry.unknown(row.verifier)}")


def demonstrations(workload: Workload, tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    """Supervised samples of all training rows: prompt, response, end token. ValueError naming a row without a response."""
    responses = encode_responses(workload.train, tokenizer)
    return [_demonstration(p, workload.tokens[p.id], r) for p, r in zip(workload.train, responses, strict=True)]


def _demonstration(prompt: Prompt, prompt_tokens: np.ndarray, response: np.ndarray) -> Sample:
    return Sample(
        uid=prompt.id, sample=0, token_ids=np.concatenate([prompt_tokens, response]).astype(np.int32),
        prompt_tokens=len(prompt_tokens), logprobs=np.zeros(len(response), np.float32), advantage=1.0,
    )  # fmt: skip


def rollout_sampling(config: Config, tokenizer: PreTrainedTokenizerFast, temperature: float | None = None) -> Sampling:
    """How completions are drawn; `temperature` None: as in training."""
    return Sampling(
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature if temperature is None else temperature,
        seed=config.seed,
        stop_token_ids=(tokenizer.eos_token_id,) if tokenizer.eos_token_id is not None else (),
        stop=tuple(config.rollout.stop),
        top_k=config.rollout.top_k,
        top_p=config.rollout.top_p,
        min_p=config.rollout.min_p,
        deadline=config.rollout.deadline,
    )
