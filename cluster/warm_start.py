"""The supervised warm start: demonstrations, until sampled pass@1 on training prompts reaches a mark."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import ray

from ..configs.schema import Config
from ..observe.console import Console
from ..observe.run_folder import RunFolder, replace_folder
from ..policy.blueprint import Blueprint
from ..trainer.pack import pack_updates
from .evaluate import evaluate
from .learner_actor import LearnerTask
from .learners import LearnerGroup
from .stages import Stages
from .watchdog import StopFlag
from .workload import Workload, demonstrations, rollout_sampling

PROBE_ROUND = 2**32 - 1  # names the order in which probes draw training prompts: the same ones every time


@dataclass(frozen=True, slots=True)
class WarmStart:
    """How a warm start went."""

    steps: int
    seconds: float
    loss: float  # of the last update
    probe: float  # pass@1 of the last probe on training prompts; nan without one


class SupervisedLoop:
    """demonstrations -> pack -> learn, with a probe of the policy every few steps: broadcast -> rollout -> verify."""

    def __init__(
        self, config: Config, blueprint: Blueprint, workload: Workload, stages: Stages, console: Console, stop: StopFlag
    ):
        self.config, self.workload, self.stages, self.console, self.stop = config, workload, stages, console, stop
        self.blueprint = blueprint
        self.samples = demonstrations(workload, blueprint.tokenizer)
        self.learners = LearnerGroup(blueprint, config, LearnerTask(config.model.path, True, config.sft.steps))

    def run(self, run: RunFolder, target: str) -> WarmStart:
        """Train, and write the policy to the run's folder `target`. A learner that dies ends it: it is short enough to start again."""
        sft, started, loss, probe = self.config.sft, time.monotonic(), float("nan"), float("nan")
        self.learners.start()
        try:
            done = 0
            with self.console.bar("warm start", sft.steps) as advance:
                for done in range(1, sft.steps + 1):
                    self.stop.check()
                    loss = self._update(done)
                    advance(1)
                    if sft.probe_every and done % sft.probe_every == 0:
                        probe = self._probe(done)
                        self.console.say(
                            f"warm start {done}/{sft.steps}  loss {loss:.3f}  pass@1 on train prompts {probe:.3f}"
                        )
                        if sft.stop_at and probe >= sft.stop_at:
                            break
            self._save(run, target)
        finally:
            self.learners.kill()
        return WarmStart(done, time.monotonic() - started, loss, probe)

    def _update(self, step: int) -> float:
        """One optimizer update on the step's demonstrations: passes over the data, each in its own order."""
        size, rows = self.config.sft.batch, len(self.samples)
        places = range((step - 1) * size, step * size)
        orders = {round_: self._order(round_) for round_ in {place // rows for place in places}}
        batch = [self.samples[orders[place // rows][place % rows]] for place in places]
        updates = pack_updates(
            batch, 1, self.config.learner.actors, self.config.learner.token_budget, self.config.seed + step
        )
        report = self.learners.call("learn", ray.put(updates))[0]
        if report.skipped:
            self.console.warn(f"warm start step {step}: update dropped, non-finite on {', '.join(report.culprits)}")
        return report.metrics.get("loss", float("nan"))

    def _order(self, round_: int) -> np.ndarray:
        return np.random.default_rng((self.config.seed, 7, round_)).permutation(len(self.samples))

    def _probe(self, step: int) -> float:
        count = min(self.config.sft.probe_prompts, len(self.workload.train))
        order = self._order(PROBE_ROUND)[:count]
        tasks = [self.workload.task(p, f"{p.id}@probe{step}", 1) for p in (self.workload.train[i] for i in order)]
        self.stages.publish(self.learners.export(step))
        sampling = rollout_sampling(self.config, self.blueprint.tokenizer, self.config.eval.temperature)
        return evaluate(self.stages, tasks, sampling, 1).pass_at[1]

    def _save(self, run: RunFolder, target: str) -> None:
        aside = run.path / (target + ".partial")
        self.learners.call("save_policy", str(aside.resolve()))
        replace_folder(aside, run.path / target)
