"""A judge behind an actor. Neither torch nor transformers is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..configs.schema import Config
from ..records import Completion, Task, Verdict
from ..rewards.judge import Judge


class VerifierActor:
    """Scores completions; those of one prompt come together."""

    def __init__(self, config: Config):
        reward, verifier = config.reward, config.verifier
        self.judge = Judge(
            reward.verifier, reward.options, truncated=reward.truncated, timeout=verifier.timeout,
            retries=verifier.retries,
        )  # fmt: skip

    def score(self, items: Sequence[tuple[Task, Completion]]) -> list[Verdict]:
        """One verdict an item, in order. A verifier of groups takes what is here of a prompt for the whole group."""
        prompt_ids = {task.request.uid: task.request.token_ids for task, _ in items}
        return self.judge.judge_all([(task.prompt, completion) for task, completion in items], prompt_ids)

    def pid(self) -> int:
        return os.getpid()
