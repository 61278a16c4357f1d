"""Small real runs for the tests of this folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mimosa.configs.loader import load
from mimosa.configs.schema import Config

TINY = [
    "sft.steps=0", "model.d_model=32", "model.n_layer=1", "model.d_intermediate=0", "model.headdim=16", "model.mimo_rank=2",
    "train.prompts=6", "train.group=4", "train.updates=2", "train.steps=3", "rollout.max_tokens=6", "rollout.slots=16",
    "data.eval_prompts=8", "train.eval_every=0", "checkpoint.every=1", "verifier.batch=5", "learner.threads=1",
]  # fmt: skip

WARM_START = [
    "sft.steps=200", "sft.probe_every=20", "sft.stop_at=0.2", "sft.optimizer.lr=8e-3", "checkpoint.every=20", "rollout.actors=1",
    "verifier.actors=1",
]  # fmt: skip


def tiny_run(folder: Path, *overrides: str) -> Config:
    """A run of seconds: three digits mod 7 with a random policy of one layer."""
    return load("smoke", [*TINY, f"run.dir={folder}", *overrides])


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    file = folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rollouts(folder: Path) -> dict[int, list[dict]]:
    """Lines of rollouts/ by step."""
    return {int(f.stem.split("_")[1]): rows(f.parent, f.name) for f in sorted((folder / "rollouts").glob("*.jsonl"))}


def actor_processes(kind: str) -> list[psutil.Process]:
    """Ray's processes of an actor class that descend from this one, by the title Ray gives them."""
    children = psutil.Process().children(recursive=True)
    alive = [p for p in children if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in alive if (p.cmdline() or [""])[0].startswith(f"ray::{kind}")]


@contextmanager
def when_step(folder: Path, step: int, act: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Do something from a thread as soon as the run's row of `step` is written; yields what went wrong there."""
    errors: list[BaseException] = []

    def watch() -> None:
        deadline = time.monotonic() + 120
        try:
            while not any(row["step"] >= step for row in rows(folder)):
                assert time.monotonic() < deadline, f"no row of step {step}"
                time.sleep(0.05)
            act()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield errors
    thread.join(5)
