"""The row of numbers of a step: to metrics.jsonl, and to wandb when asked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..configs.errors import ConfigError
from ..records import Group, RolloutStats, Verdict
from ..rewards.judge import TRUNCATED_REASON
from .alarms import judgements

Row = dict[str, Any]
EMPTY: Mapping[str, Any] = MappingProxyType({})
ENGINE_COUNTS = (
    "prompt_tokens",
    "prefilled_tokens",
    "parked",
    "resumed",
    "prefill_seconds",
    "decode_seconds",
    "swap_seconds",
)


def rollout_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """What a step's groups say: rewards over scored completions, lengths, truncation, statuses, policy age in versions."""
    verdicts = [v for g in groups for v in g.verdicts]
    completions = [c for g in groups for c in g.completions]
    scores = [v.score for v in verdicts if v.score is not None]
    lengths = np.array([len(c.token_ids) for c in completions])
    ages = np.concatenate([version - c.policy_version for c in completions])
    components = sorted({name for v in verdicts for name in v.components})
    return {
        "reward/mean": float(np.mean(scores)) if scores else math.nan,
        "reward/std": float(np.std(scores)) if scores else math.nan,
        "reward/all_right_groups": sum(all(v.score == 1 for v in g.verdicts) for g in groups),
        "verifier/failed": sum(v.status == "verifier_failed" for v in verdicts),
        "verifier/skipped": sum(v.status == "skipped" for v in verdicts),
        "verifier/seconds_max": max(v.seconds for v in verdicts),
        "completion/count": len(completions),
        "completion/tokens": int(lengths.sum()),
        "completion/length_mean": float(lengths.mean()),
        "completion/length_max": int(lengths.max()),
        "completion/truncated": sum(c.finish_reason != "stop" for c in completions) / len(completions),
        "policy_age/mean": float(ages.mean()),
        "policy_age/max": int(ages.max()),
        **{f"component/{name}": _component_mean(verdicts, name) for name in components},
        **verifier_rates(groups),
    }


def verifier_rates(groups: Sequence[Group]) -> dict[str, float]:
    """Of each verifier by its short name, over what it was asked (not what a rule decided): mean score, shares failed and skipped."""
    asked: dict[str, list[Verdict]] = {}
    for name, _, _, verdict in judgements(groups):
        if verdict.reason != TRUNCATED_REASON:
            asked.setdefault(name.replace("/", "_"), []).append(verdict)
    rates = {}
    for name, verdicts in sorted(asked.items()):
        scores = [v.score for v in verdicts if v.score is not None]
        rates[f"verifier/{name}/score_mean"] = float(np.mean(scores)) if scores else math.nan
        for status in ("failed", "skipped"):
            count = sum(v.status.removeprefix("verifier_") == status for v in verdicts)
            rates[f"verifier/{name}/{status}_share"] = count / len(verdicts)
    return rates


def engine_metrics(before: RolloutStats, now: RolloutStats) -> dict[str, float]:
    """What the rollout engines did between two counts; an actor that died meanwhile takes its part along."""

    def done(name: str) -> float:
        return max(0, getattr(now, name) - getattr(before, name))

    compared = done("swap_sequences")
    return {
        **{f"rollout/{name}": done(name) for name in ENGINE_COUNTS},
        "rollout/slots_in_use": (done("decoded_rows") - done("idle_rows")) / max(done("slot_steps"), 1),
        "rollout/idle_rows": done("idle_rows") / max(done("decoded_rows"), 1),
        "rollout/swap_kl": done("swap_kl") / compared if compared else math.nan,
    }


def length_metrics(sampled: Sequence[int], trained: Sequence[int]) -> dict[str, float]:
    """Mean length of the completions that carry a gradient, and how far it is from the mean of all that were sampled."""
    if not sampled or not trained:
        return {"completion/length_trained": math.nan, "completion/length_bias": math.nan}
    mean = float(np.mean(trained))
    return {"completion/length_trained": mean, "completion/length_bias": mean - float(np.mean(sampled))}


def _component_mean(verdicts: Sequence[Any], name: str) -> float:
    return float(np.mean([v.components[name] for v in verdicts if name in v.components]))


class MetricsLog:
    """Appends rows to metrics.jsonl and forwards them to wandb."""

    def __init__(
        self, path: Path, wandb_mode: str = "off", project: str = "", name: str = "", config: Mapping[str, Any] = EMPTY
    ):
        self.path = path
        self.wandb = start_wandb(wandb_mode, project, name, path.parent, config) if wandb_mode != "off" else None

    def write(self, row: Row) -> None:
        """One row; numbers that are not finite are written as null, which JSON can say."""
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(clean) + "\n")
        if self.wandb is not None:
            self.wandb.log({k: v for k, v in clean.items() if v is not None}, step=int(row["step"]))

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def start_wandb(mode: str, project: str, name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """A wandb run; offline it needs no network and no account. Raises ConfigError when wandb cannot be reached or does not know us."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    settings = wandb.Settings(init_timeout=60)
    try:
        return wandb.init(
            mode=mode, project=project, name=name, dir=str(folder), config=dict(config), settings=settings  # type: ignore[arg-type]
        )  # fmt: skip
    except wandb.errors.Error as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"log.wandb: got {mode}, wanted offline or off where wandb does not answer: {why}") from error
