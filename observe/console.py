"""What a person sees: one line per step, a bar per long phase, warnings that stand out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

STEP_FIELDS = (  # label, row key, format
    ("reward", "reward/mean", "{:.3f}"),
    ("flat", "reward/zero_variance_groups", "{:d}"),
    ("len", "completion/length_mean", "{:.1f}"),
    ("cut", "completion/truncated", "{:.1%}"),
    ("kl", "policy/kl_rollout_learner", "{:.1e}"),
    ("H", "policy/entropy", "{:.3f}"),
    ("|g|", "policy/grad_norm", "{:.2f}"),
    ("age", "policy_age/mean", "{:.1f}"),
    ("tok/s", "tokens_per_second/rollout", "{:,.0f}"),
    ("s", "time/step", "{:.2f}"),
)
SUPERVISED_FIELDS = (
    ("loss", "policy/loss", "{:.3f}"),
    ("|g|", "policy/grad_norm", "{:.2f}"),
    ("pass@1 on train prompts", "pass@1/probe", "{:.3f}"),
    ("tok/s", "tokens_per_second/train", "{:,.0f}"),
    ("s", "time/step", "{:.2f}"),
)


class RateColumn(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


class Console:
    """Lines and bars on standard output, or standard error; plain lines alone where it is no terminal."""

    def __init__(self, progress: bool = True, stderr: bool = False):
        self.rich = RichConsole(highlight=False, soft_wrap=True, stderr=stderr)
        self.show_bars = progress and self.rich.is_terminal
        self._bars: Progress | None = None  # all that are shown now

    def say(self, text: str) -> None:
        self.rich.print(Text(text))

    def warn(self, text: str) -> None:
        self.rich.print(Text(f"warning: {text}", style="yellow"))

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """The step's one line."""
        self._line([f"step {row['step']:>{len(str(steps))}}/{steps}", f"v{row['policy_version']}"], row, STEP_FIELDS)

    def supervised(self, row: Mapping[str, Any], steps: int) -> None:
        """The line of an update of the warm start."""
        self._line([f"warm start {row['step']:>{len(str(steps))}}/{steps}"], row, SUPERVISED_FIELDS)

    def _line(self, parts: list[str], row: Mapping[str, Any], fields: Sequence[tuple[str, str, str]]) -> None:
        values = [(label, row.get(key), form) for label, key, form in fields]
        parts += [
            f"{label} {form.format(value)}" for label, value, form in values if value is not None and value == value
        ]
        self.say("  ".join(parts))

    @contextmanager
    def bar(self, label: str, total: int | None, rate: bool = False) -> Iterator[Any]:
        """A progress bar, below those that are there; `total` None where it is not known; yields `advance(n)`.

        rate: show how many a second, where it is the first bar.
        """
        outermost, bars = self._bars is None, self._bars or self._new_bars(rate)
        self._bars, task = bars, bars.add_task(label, total=total)
        try:
            yield lambda n=1: bars.advance(task, n)
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def _new_bars(self, rate: bool) -> Progress:
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        if rate:
            columns = (*columns, RateColumn())
        bars = Progress(*columns, console=self.rich, transient=True, disable=not self.show_bars)
        bars.start()
        return bars
