"""What a person sees: one line per step, a bar per long phase, warnings that stand out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class RateColumn(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


class Console:
    """Lines and bars on standard output; plain lines alone where it is no terminal."""

    def __init__(self, progress: bool = True):
        self.rich = RichConsole(highlight=False, soft_wrap=True)
        self.show_bars = progress and self.rich.is_terminal

    def say(self, text: str) -> None:
        self.rich.print(Text(text))

    def warn(self, text: str) -> None:
        self.rich.print(Text(f"warning: {text}", style="yellow"))

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """The step's one line."""
        parts = [f"step {row['step']:>{len(str(steps))}}/{steps}", f"v{row['policy_version']}"]
        for label, key, form in STEP_FIELDS:
            value = row.get(key)
            if value is not None and value == value:
                parts.append(f"{label} {form.format(value)}")
        self.say("  ".join(parts))

    @contextmanager
    def bar(self, label: str, total: int | None, rate: bool = False) -> Iterator[Any]:
        """A progress bar, `total` None where it is not known; yields `advance(n)`. rate: show how many a second."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, *([RateColumn()] if rate else []), console=self.rich, transient=True, disable=not self.show_bars
        ) as progress:
            task = progress.add_task(label, total=total)
            yield lambda n=1: progress.advance(task, n)
