"""From verdicts to advantages: group-relative, with failed verifiers masked out and groups without a signal dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Group, Sample

STD_FLOOR = 1e-4  # added to a group's standard deviation before dividing


@dataclass(frozen=True, slots=True)
class Advantages:
    """Training samples of one step and what was left out of them."""

    samples: tuple[Sample, ...]
    zero_variance_groups: int  # all scores equal: no gradient in them
    unscored_groups: int  # fewer than two scored samples
    masked_samples: int  # verifier failed or skipped by rule


def compute_advantages(groups: Sequence[Group], divide_by_std: bool) -> Advantages:
    """A_i = r_i - mean(r), over the scored samples of a group; divided by std(r) + 1e-4 when asked (population std)."""
    samples: list[Sample] = []
    zero = unscored = masked = 0
    for group in groups:
        scored = [i for i, verdict in enumerate(group.verdicts) if verdict.status == "scored"]
        masked += len(group.verdicts) - len(scored)
        if len(scored) < 2:
            unscored += 1
            continue
        rewards = np.array([group.verdicts[i].score for i in scored], dtype=np.float64)
        if np.ptp(rewards) == 0:
            zero += 1
            continue
        advantages = rewards - rewards.mean()
        if divide_by_std:
            advantages /= rewards.std() + STD_FLOOR
        samples += [_sample(group, i, float(a)) for i, a in zip(scored, advantages, strict=True)]
    return Advantages(tuple(samples), zero, unscored, masked)


def _sample(group: Group, i: int, advantage: float) -> Sample:
    completion, prompt = group.completions[i], group.request.token_ids
    return Sample(
        uid=completion.uid,
        sample=completion.sample,
        token_ids=np.concatenate([prompt, completion.token_ids]).astype(np.int32),
        prompt_tokens=len(prompt),
        logprobs=completion.logprobs,
        advantage=advantage,
    )
