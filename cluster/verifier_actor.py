"""A judge behind an actor. Neither torch nor transformers is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..configs.errors import RunError
from ..configs.schema import Config
from ..records import Completion, Task, Verdict
from ..rewards.judge import Judge
from ..rewards.judge_link import JudgeRefused


class VerifierActor:
    """Scores completions; those of one prompt come together. Without a sandbox for code it does not come up.

    named: verifiers that rows name.
    """

    def __init__(self, config: Config, named: Sequence[str] = ()):
        reward, verifier = config.reward, config.verifier
        self.judge = Judge(
            reward.verifier, reward.options, truncated=reward.truncated, timeout=verifier.timeout,
            retries=verifier.retries,
        )  # fmt: skip
        for name in dict.fromkeys((reward.verifier, *named)):
            try:
                self.judge.start(name)
            except JudgeRefused as refused:
                who = f"reward.verifier={name}" if name == reward.verifier else f"verifier {name}, which rows name,"
                raise RunError(f"{who} refuses to start here: {refused}") from refused

    def score(self, items: Sequence[tuple[Task, Completion]]) -> list[Verdict]:
        """One verdict an item, in order. A verifier of groups takes what is here of a prompt for the whole group."""
        prompt_ids = {task.request.uid: task.request.token_ids for task, _ in items}
        return self.judge.judge_all([(task.prompt, completion) for task, completion in items], prompt_ids)

    def pid(self) -> int:
        return os.getpid()
