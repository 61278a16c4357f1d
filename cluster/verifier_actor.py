"""A judge behind an actor. Neither torch nor transformers is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..configs.schema import Config
from ..records import Completion, Prompt, Verdict
from ..rewards.judge import Judge


class VerifierActor:
    """Scores completions one by one."""

    def __init__(self, config: Config):
        reward, verifier = config.reward, config.verifier
        self.judge = Judge(
            reward.verifier, reward.options, truncated=reward.truncated, timeout=verifier.timeout,
            retries=verifier.retries,
        )  # fmt: skip

    def score(self, items: Sequence[tuple[Prompt, Completion]]) -> list[Verdict]:
        """One verdict an item, in order."""
        return [self.judge.judge(prompt, completion) for prompt, completion in items]

    def pid(self) -> int:
        return os.getpid()
