"""pass@1 and pass@k of the policy that the rollout actors hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..records import Group, Sampling, Task
from .stages import Advance, Stages


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result on a set of prompts; a completion counts as right when its score is 1."""

    pass_at: dict[int, float]  # k: estimate of the chance that one of k samples is right
    prompts: int
    samples: int  # per prompt
    truncated: float  # share of completions without an end token
    unscored: int  # completions whose verifier failed or was skipped: counted as wrong
    standard_error: float  # of pass@1, from the spread over prompts
    failures: tuple[str, ...]  # reasons of the judgements that failed

    def as_row(self) -> dict[str, float]:
        """For metrics and summaries."""
        return {
            **{f"eval/pass@{k}": value for k, value in self.pass_at.items()},
            "eval/standard_error": self.standard_error,
            "eval/prompts": self.prompts,
            "eval/samples": self.samples,
            "eval/truncated": self.truncated,
            "eval/unscored": self.unscored,
        }


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    if samples - right < k:
        return 1.0
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def evaluate(
    stages: Stages, tasks: Sequence[Task], sampling: Sampling, samples: int, advance: Advance = lambda n: None
) -> Evaluation:
    """Sample every task `samples` times and count what is right."""
    wanted = [Task(t.prompt, replace(t.request, samples=samples)) for t in tasks]
    return summarize(stages.make_groups(wanted, sampling, advance).groups, samples)


def summarize(groups: Sequence[Group], samples: int) -> Evaluation:
    right = [sum(v.score == 1 for v in g.verdicts) for g in groups]
    ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    pass_at = {k: sum(pass_at_k(samples, c, k) for c in right) / len(right) for k in ks}
    spread = sum((c / samples - pass_at[1]) ** 2 for c in right) / max(1, len(right) - 1)
    completions = [c for g in groups for c in g.completions]
    return Evaluation(
        pass_at=pass_at,
        prompts=len(groups),
        samples=samples,
        truncated=sum(c.finish_reason != "stop" for c in completions) / len(completions),
        unscored=sum(v.score is None for g in groups for v in g.verdicts),
        standard_error=math.sqrt(spread / len(right)),
        failures=tuple(v.reason for g in groups for v in g.verdicts if v.status == "verifier_failed"),
    )
