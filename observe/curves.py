"""The picture of a run: reward and pass@1 over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def draw_curves(steps: Rows, evaluations: Rows, path: Path, title: str) -> None:
    """Mean reward of each step, and pass@1 on held-out prompts where it was measured, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rewards = [(r["step"], r["reward/mean"]) for r in steps if r.get("reward/mean") is not None]
    passes = [(r["step"], r["eval/pass@1"]) for r in evaluations]
    if rewards:
        axes.plot(*zip(*rewards, strict=True), color="tab:blue", linewidth=1, label="mean reward, training prompts")
    if passes:
        axes.plot(*zip(*passes, strict=True), "o-", color="tab:orange", label="pass@1, held-out prompts")
    axes.set(xlabel="step", ylabel="share right", ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    if rewards or passes:
        axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
