"""What must be said aloud of verifiers while a run goes on: failures by function and row, and signs that one judges nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from ..records import Completion, Group, Verdict
from ..rewards.judge import TRUNCATED_REASON
from ..rewards.registry import label

MOST_AT_ONCE = 5  # new reasons of failures that are told of one step
MOST = 100  # of a run
VACUOUS = 0.99  # a larger share of one score in a full window

Judgement = tuple[str, str, Completion, Verdict]  # the verifier's short name, the prompt's id


class VerifierAlarms:
    """warn: takes a line. share, window: `verifier.alarm_share` and `verifier.alarm_window`."""

    def __init__(self, warn: Callable[[str], None], share: float, window: int) -> None:
        self.warn, self.share, self.window = warn, share, window
        self.told: set[str] = set()
        self.scores: dict[str, deque[float]] = {}
        self.vacuous: set[str] = set()
        self.paid_for_nothing: set[str] = set()

    def look(self, step: int, groups: Sequence[Group]) -> None:
        """Looks at a step's judgements."""
        found = judgements(groups)
        verdicts = [verdict for *_, verdict in found]
        failed = [verdict.reason for verdict in verdicts if verdict.status == "verifier_failed"]
        self.tell(f"step {step}", failed)
        if len(failed) > self.share * len(verdicts):
            self.warn(
                f"step {step}: {len(failed) / len(verdicts):.1%} of the judgements failed, more than verifier.alarm_share="
                f"{self.share}; their reasons are in rollouts/"
            )
        for name, prompt, completion, verdict in found:
            if verdict.score is not None and verdict.reason != TRUNCATED_REASON:
                self._look_at_score(name, prompt, completion, verdict.score)
        self._look_at_windows(step)

    def tell(self, where: str, reasons: Sequence[str]) -> None:
        """Failed judgements: every reason once in a run, a few at a time."""
        fresh = [(reason, count) for reason, count in Counter(reasons).items() if reason not in self.told]
        for reason, count in fresh[:MOST_AT_ONCE] if len(self.told) < MOST else []:
            self.told.add(reason)
            self.warn(f"{where}: {'a judgement' if count == 1 else f'{count} judgements'} failed: {reason}")
        more = len(fresh) - MOST_AT_ONCE
        if more > 0:
            self.warn(f"{where}: judgements failed for {more} more reasons")

    def _look_at_score(self, name: str, prompt: str, completion: Completion, score: float) -> None:
        self.scores.setdefault(name, deque(maxlen=self.window)).append(score)
        if score > 0 and not completion.text.strip() and name not in self.paid_for_nothing:
            self.paid_for_nothing.add(name)
            self.warn(
                f"verifier {name} gave {score:g} to an empty answer (row {prompt!r}): it may reward nothing at all"
            )

    def _look_at_windows(self, step: int) -> None:
        for name, scores in self.scores.items():
            (score, count), *_ = Counter(scores).most_common(1)
            if len(scores) < self.window or count <= VACUOUS * len(scores):
                self.vacuous.discard(name)
            elif name not in self.vacuous:
                self.vacuous.add(name)
                self.warn(
                    f"step {step}: verifier {name} gave {score:g} to {count} of the last {len(scores)} answers: it tells "
                    "nothing apart, or the task is far too hard or too easy"
                )


def judgements(groups: Sequence[Group]) -> list[Judgement]:
    """Every judgement of a step."""
    names = {verifier: label(verifier) for verifier in {group.prompt.verifier for group in groups}}
    return [
        (names[group.prompt.verifier], group.prompt.id, completion, verdict)
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
