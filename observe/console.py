"""What a person sees: one line per step, a bar per long phase, warnings that stand out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Any]:
        """A progress bar that starts at `done`; yields `advance(n, tokens)`, of which tokens makes it show their rate."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        started, counted = time.monotonic(), 0
        with Progress(*columns, console=self.rich, transient=True, disable=not self.show_bars) as progress:
            task = progress.add_task(label, total=total, completed=done, rate="")

            def advance(n: int = 1, tokens: int = 0) -> None:
                nonlocal counted
                counted += tokens
                rate = f"{counted / max(time.monotonic() - started, 1e-9):,.0f} tok/s" if counted else ""
                progress.update(task, advance=n, rate=rate)

            yield advance
