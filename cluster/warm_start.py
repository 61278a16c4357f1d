"""Supervised training on demonstrations, until sampled pass@1 on training prompts reaches a mark."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from ..configs.schema import Config
from ..observe.console import Console
from ..observe.metrics import MetricsLog, Row
from ..observe.run_folder import RunFolder, read_jsonl, truncate_rows
from ..policy.blueprint import Blueprint
from ..rollout.stream import StreamState
from ..trainer.pack import pack_updates
from .evaluate import evaluate
from .learner_actor import LearnerTask
from .learners import LearnerGroup, with_restarts
from .progress import Progress, Saver
from .stages import Stages
from .watchdog import StopFlag
from .workload import Workload, demonstrations, rollout_sampling

PROBE = "pass@1/probe"
PROBE_ROUND = 2**32 - 1  # names the order in which probes draw training prompts: the same ones every time
LINES = 10  # on the console in all, when no probe says where it stands


@dataclass(frozen=True, slots=True)
class WarmStart:
    """How a warm start went."""

    steps: int
    seconds: float
    loss: float | None  # of the last update; None when it was not finite
    probe: float | None  # pass@1 of the last probe on training prompts


class SupervisedLoop:
    """demonstrations -> pack -> learn, with a probe of the policy every few steps: broadcast -> rollout -> verify."""

    def __init__(
        self, config: Config, blueprint: Blueprint, workload: Workload, stages: Stages, run: RunFolder, log: MetricsLog,
        console: Console, stop: StopFlag,
    ):  # fmt: skip
        self.config, self.workload, self.stages, self.log, self.console = config, workload, stages, log, console
        self.stop, self.blueprint = stop, blueprint
        self.samples = demonstrations(workload, blueprint.tokenizer)
        self.learners = LearnerGroup(blueprint, config, LearnerTask(config.model.path, True, config.sft.steps))
        self.saver = Saver(run, config.checkpoint, "sft")
        self.progress = Progress(StreamState())

    def run(self, resume: bool) -> WarmStart:
        """Train to the mark or the last step; the learners stay up, for `save` and `write_policy`, until `close`. Dead ones are started
        again from the last checkpoint, a bounded number of times."""
        with self.console.bar("warm start", self.config.sft.steps) as advance:
            with_restarts(self.learners, self.config, self.console, lambda again: self._attempt(again, advance), resume)
        rows = read_jsonl(self.log.path)
        probes = [row[PROBE] for row in rows if row.get(PROBE) is not None]
        loss = rows[-1].get("policy/loss") if rows else None
        return WarmStart(self.progress.step, self.progress.seconds, loss, probes[-1] if probes else None)

    def _attempt(self, resume: bool, advance: Any) -> None:
        before = self.progress.step
        latest = self.saver.latest() if resume else None
        self.learners.start(str(latest.resolve()) if latest else "")
        self.progress = self.saver.read(latest) if latest else Progress(StreamState())
        truncate_rows(self.log.path, self.progress.step)
        advance(self.progress.step - before)
        every = self.config.checkpoint.every
        for step in range(self.progress.step + 1, self.config.sft.steps + 1):
            self.stop.check()
            row = self._step(step)
            advance(1)
            if every and step % every == 0:
                self.save()
            if self.config.sft.stop_at and (row.get(PROBE) or 0.0) >= self.config.sft.stop_at:
                return

    def _step(self, step: int) -> Row:
        """One update, a probe when it is due, and the row of both."""
        sft, started = self.config.sft, time.monotonic()
        row = self._update(step)
        try:
            if sft.probe_every and step % sft.probe_every == 0:
                row[PROBE] = self._probe(step)
        finally:  # the update is done, whatever became of the probe
            row["time/step"] = round(time.monotonic() - started, 6)
            self.progress = self.progress.after(step, self.progress.stream, self.progress.seconds + row["time/step"])
            self.log.write(row)
        if step % (sft.probe_every or max(1, sft.steps // LINES)) == 0:
            self.console.supervised(row, sft.steps)
        return row

    def _update(self, step: int) -> Row:
        """One optimizer update on the step's demonstrations: passes over the data, each in its own order."""
        size, rows = self.config.sft.batch, len(self.samples)
        places = range((step - 1) * size, step * size)
        orders = {round_: self._order(round_) for round_ in {place // rows for place in places}}
        batch = [self.samples[orders[place // rows][place % rows]] for place in places]
        updates = pack_updates(
            batch, 1, self.config.learner.actors, self.config.learner.token_budget, self.config.seed + step
        )
        started = time.monotonic()
        reports = self.learners.call("learn", ray.put(updates))
        seconds, report = time.monotonic() - started, reports[0]
        if report.skipped:
            names = ", ".join(name for r in reports for name in r.culprits)
            self.console.warn(f"warm start step {step}: update dropped, loss or gradient not finite: {names}")
        shown = ("loss", "entropy_trained", "grad_norm", "learning_rate")
        return {
            "step": step,
            **{f"policy/{name}": report.metrics.get(name) for name in shown},
            "policy/updates_skipped": report.skipped,
            "tokens_per_second/train": updates[0].tokens / seconds,
            "time/learn": round(seconds, 6),
        }

    def _order(self, round_: int) -> np.ndarray:
        return np.random.default_rng((self.config.seed, 7, round_)).permutation(len(self.samples))

    def _probe(self, step: int) -> float:
        count = min(self.config.sft.probe_prompts, len(self.workload.train))
        order = self._order(PROBE_ROUND)[:count]
        tasks = [self.workload.task(p, f"{p.id}@probe{step}", 1) for p in (self.workload.train[i] for i in order)]
        self.stages.publish(self.learners.export(step))
        sampling = rollout_sampling(self.config, self.blueprint.tokenizer, self.config.eval.temperature)
        return evaluate(self.stages, tasks, sampling, 1).pass_at[1]

    def save(self) -> None:
        """Checkpoint the last finished step."""
        self.saver.write(self.progress, lambda folder: self.learners.call("save", folder))

    def write_policy(self, target: str) -> None:
        """Put the policy with its tokenizer into the run's folder `target`."""
        self.saver.write_policy(target, lambda folder: self.learners.call("save_policy", folder))

    def close(self) -> None:
        self.learners.kill()
