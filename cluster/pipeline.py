"""The training loop, and the one place where its flow is drawn.

    prompts -> rollout -> Completion -> verify -> Verdict -> advantage -> pack -> Update -> learn -> PolicyVersion -> broadcast -> rollout

| stage     | where                | consumes                | waits for                        | unblocked by                      |
|-----------|----------------------|-------------------------|----------------------------------|-----------------------------------|
| prompts   | driver               | position in the data    | -                                | -                                 |
| rollout   | rollout actors       | Task, weights           | weights of the step before       | result, death (replaced), timeout |
| verify    | verifier actors      | Task, Completion        | a unit of whole groups           | result, death (replaced), timeout |
| advantage | driver               | Group                   | all groups of the step           | -                                 |
| pack      | driver               | Sample                  | -                                | -                                 |
| learn     | learner ranks        | Update                  | all ranks (collective)           | result, death (last checkpoint)   |
| broadcast | learner 0 -> rollout | PolicyVersion           | rollout actors between two calls | result, death (replaced), timeout |

`train.mode: sync` runs the rows one after the other. `one_step_off` starts the next step's rollout before this step's learn, so that
both overlap and every token is at most one version older than the weights it trains.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import ray

from ..configs.schema import Config
from ..observe.alarms import VerifierAlarms
from ..observe.console import Console
from ..observe.metrics import MetricsLog, Row, engine_metrics, length_metrics, rollout_metrics
from ..observe.run_folder import RunFolder
from ..policy.blueprint import Blueprint
from ..records import Group, LearnReport, RolloutStats, Sample
from ..rollout.stream import PromptStream, StreamState
from ..trainer.advantage import Advantages, compute_advantages
from ..trainer.pack import pack_updates
from .evaluate import evaluate
from .learners import LearnerGroup, with_restarts
from .partial import PartialRollouts
from .progress import Clock, Progress, Saver
from .stages import Gathered, Stages
from .watchdog import Interrupted, StopFlag
from .workload import Workload, rollout_sampling


class Pipeline:
    """One run of reinforcement learning over actors that are already there."""

    def __init__(
        self, config: Config, blueprint: Blueprint, workload: Workload, stages: Stages, learners: LearnerGroup,
        run: RunFolder, log: MetricsLog, console: Console, stop: StopFlag,
    ):  # fmt: skip
        self.config, self.workload, self.stages, self.learners = config, workload, stages, learners
        self.log, self.console, self.stop = log, console, stop
        self.tokenizer = blueprint.tokenizer
        self.sampling = rollout_sampling(config, self.tokenizer)
        self.stream = PromptStream(workload.train, config.seed, config.data.shuffle)
        self.progress = Progress(stream=self.stream.state())
        self.saver = Saver(run, config.checkpoint)
        self.alarms = VerifierAlarms(console.warn, config.verifier.alarm_share, config.verifier.alarm_window)
        self.checkpoint_seconds = 0.0  # of the save after the step before
        self.partial = PartialRollouts(stages, self.sampling) if config.rollout.partial else None
        self.engines = RolloutStats()  # what the rollout engines had done at the last count
        self.published: dict[int, Any] = {}  # version: reference to its weights, of the last few

    def run(self, resume: bool) -> None:
        """Train to the last step. A dead learner group is started again from the last checkpoint, a bounded number of times."""

        def attempt(again: bool) -> None:
            self._restore(again)
            self._loop()

        with_restarts(self.learners, self.config, self.console, attempt, resume)

    def _restore(self, resume: bool) -> None:
        """Start the learners from the last checkpoint (or the start) and send their weights out."""
        latest = self.saver.latest() if resume else None
        self.learners.start(str(latest.resolve()) if latest else "")
        self.progress = self.saver.read(latest) if latest else Progress(StreamState())
        self.saver.run.truncate_after(self.progress.step)
        self.stream.restore(self.progress.stream)
        self._publish()
        if self.partial is not None:
            self.partial.restart(self.workload.tasks_of(self.progress.pending, self.config.train.group))

    def _loop(self) -> None:
        config, last = self.config.train, self.config.train.steps
        overlap = config.mode == "one_step_off"
        if self.progress.step == 0:
            self._evaluate(0)
        with ThreadPoolExecutor(1) as background, self.console.bar("reinforcement learning", last) as advance:
            advance(self.progress.step)
            first = self.progress.step + 1
            upcoming = self._begin(background) if first <= last else None
            for step in range(first, last + 1):
                started = time.monotonic()
                clock = Clock()
                gathered, position = self._collect(upcoming, clock)
                if overlap and step < last:
                    upcoming = self._begin(background)
                row = self._learn_step(step, gathered, clock)
                seconds = self.progress.seconds + time.monotonic() - started
                self.progress = self.progress.after(step, position, seconds, gathered.pending)
                self._finish_step(row, gathered, clock, started)
                advance(1)
                if not overlap and step < last:
                    upcoming = self._begin(background)
        self._evaluate_and_save_last()

    def _begin(self, background: ThreadPoolExecutor) -> tuple[Future[Gathered], Any]:
        """Draw prompts and start their rollout; with it goes the position in the data behind them."""
        self.stages.settle()
        wanted, partial = self.config.train.prompts, self.partial
        drawn = self.stream.take(wanted if partial is None else partial.missing())
        tasks = [self.workload.task(prompt, uid, self.config.train.group) for prompt, uid in drawn]
        if partial is not None:
            return background.submit(partial.make_groups, tasks, wanted), self.stream.state()
        return background.submit(self.stages.make_groups, tasks, self.sampling), self.stream.state()

    def _collect(self, upcoming: Any, clock: Clock) -> tuple[Gathered, Any]:
        future, position = upcoming
        with clock("wait_rollout"):
            gathered = future.result()
        clock.seconds["rollout"] = gathered.seconds_rollout
        clock.seconds["verify"] = gathered.seconds_verify
        return gathered, position

    def _learn_step(self, step: int, gathered: Gathered, clock: Clock) -> Row:
        """advantage -> pack -> learn -> broadcast; the row so far."""
        config, version = self.config, self.progress.version
        row: Row = {"step": step, **rollout_metrics(gathered.groups, version)}
        with clock("advantage"):
            found = compute_advantages(gathered.groups, config.learner.loss.advantage_std)
        with clock("mismatch"):
            row |= self._mismatch(gathered.groups)
        report = self._learn(step, found, clock)
        row |= {
            "reward/zero_variance_groups": found.zero_variance_groups,
            "reward/unscored_groups": found.unscored_groups,
            "reward/masked_samples": found.masked_samples,
            "policy/updates": report.updates,
            "policy/updates_skipped": report.skipped,
            "policy/grad_norm": None,
            **{f"policy/{key}": value for key, value in report.metrics.items()},
        }
        trained = [len(s.token_ids) - s.prompt_tokens for s in found.samples]
        loss_tokens = sum(trained)
        row |= self._rollout_row(gathered, trained)
        row["tokens_per_second/rollout"] = row["completion/tokens"] / max(gathered.seconds_rollout, 1e-9)
        row["tokens_per_second/train"] = loss_tokens / clock.seconds["learn"] if report.updates else None
        row["policy_version"] = self.progress.version
        return row

    def _rollout_row(self, gathered: Gathered, trained: list[int]) -> Row:
        """What the engines did since the step before, and whether lengths tell trained completions from sampled ones."""
        before, self.engines = self.engines, gathered.engines
        sampled = gathered.sampled_lengths or [len(c.token_ids) for g in gathered.groups for c in g.completions]
        return {
            **engine_metrics(before, self.engines),
            **length_metrics(sampled, trained),
            "rollout/groups_under_way": len(gathered.pending),
        }

    def _learn(self, step: int, found: Advantages, clock: Clock) -> LearnReport:
        """Update the policy and send it out; without a sample that carries a gradient nothing moves, on no rank."""
        if not found.samples:
            self.console.warn(
                f"step {step}: no group's rewards differ, so there is nothing to learn from; "
                f"the policy stays at version {self.progress.version}"
            )
            return LearnReport(0, 0, (), {})
        config = self.config
        with clock("pack"):
            updates = pack_updates(
                found.samples,
                config.train.updates,
                config.learner.actors,
                config.learner.token_budget,
                config.seed + step,
            )
        with clock("learn"):
            reports = self.learners.call("learn", ray.put(updates))
        report: LearnReport = reports[0]
        if report.skipped:
            names = [name for r in reports for name in r.culprits]
            self.console.warn(
                f"step {step}: {report.skipped} updates dropped, loss or gradient not finite: {', '.join(names)}"
            )
        if report.updates:
            self.progress = self.progress.bumped()
            with clock("broadcast"):
                self._publish()
        return report

    def _publish(self) -> None:
        """Send the learner's weights to the rollout actors under the current version number."""
        version = self.progress.version
        self.published[version] = self.learners.export(version)
        self.stages.publish(self.published[version])
        for old in [v for v in self.published if v < version - 1]:
            del self.published[old]

    def _mismatch(self, groups: tuple[Group, ...]) -> Row:
        """Rollout against learner logprobs, for sequences sampled by one version that is still at hand."""
        wanted = self.config.train.mismatch_sequences
        known = self.published if self.config.train.mode == "one_step_off" else (self.progress.version,)
        samples = [(s, v) for g in groups for s, v in unweighted_samples(g) if v in known]
        if not wanted or not samples:
            return dict.fromkeys(("policy/kl_rollout_learner", "policy/max_rollout_learner", "policy/entropy"))
        version = samples[0][1]
        chosen = [s for s, v in samples if v == version][:wanted]
        (update,) = pack_updates(chosen, 1, self.config.learner.actors, self.config.learner.token_budget, 0)
        older = None if version == self.progress.version else self.published[version]
        found = self.learners.call("mismatch", update, older)[0]
        return {
            "policy/kl_rollout_learner": found.kl,
            "policy/max_rollout_learner": found.largest,
            "policy/entropy": found.entropy,
        }

    def _finish_step(self, row: Row, gathered: Gathered, clock: Clock, started: float) -> None:
        step, every = int(row["step"]), self.config.train.eval_every
        self.alarms.look(step, gathered.groups)
        if self.config.run.keep_rollouts:
            self.saver.run.write_rollouts(step, gathered.groups)
        stopped: Interrupted | None = None
        if every and step % every == 0 and step < self.config.train.steps:
            with clock("eval"):
                try:
                    row |= self._evaluate(step)
                except Interrupted as signal:  # the step is done: its row must not be lost
                    stopped = signal
        clock.seconds["checkpoint"], self.checkpoint_seconds = self.checkpoint_seconds, 0.0
        clock.seconds["step"] = time.monotonic() - started
        row |= {f"time/{name}": round(seconds, 6) for name, seconds in clock.seconds.items()}
        self.log.write(row)
        self.console.step(row, self.config.train.steps)
        if stopped is not None:
            raise stopped
        # After the row: a checkpoint whose row is missing could not be resumed without a gap.
        if self.config.checkpoint.every and step % self.config.checkpoint.every == 0:
            begun = time.monotonic()
            self.save()
            self.checkpoint_seconds = time.monotonic() - begun

    def _evaluate(self, step: int) -> Row:
        """pass@1 on held-out prompts with the current weights."""
        config = self.config
        self.stages.settle()
        tasks = self.workload.evaluation_tasks(config.data.eval_prompts)
        sampling = rollout_sampling(config, self.tokenizer, config.eval.temperature)
        with self.console.bar(f"evaluation at step {step}", len(tasks) * config.eval.samples) as advance:
            found = evaluate(self.stages, tasks, sampling, config.eval.samples, advance)
        self.alarms.tell(f"evaluation at step {step}, counted as wrong", found.failures)
        self.saver.run.append_evaluation({"step": step, **found.as_row()})
        self.console.say(
            f"evaluation at step {step}: pass@1 {found.pass_at[1]:.3f} +- {found.standard_error:.3f} on {found.prompts} held-out prompts"
        )
        return found.as_row()

    def _evaluate_and_save_last(self) -> None:
        step = self.progress.step
        if not any(row["step"] == step for row in self.saver.run.evaluations()):
            self._evaluate(step)
        self.save()

    def save(self) -> None:
        """Checkpoint the last finished step, and put its policy into policy/."""
        latest = self.saver.latest()
        if latest is None or self.saver.read(latest) != self.progress:
            self.saver.write(self.progress, lambda folder: self.learners.call("save", folder))
        self.saver.write_policy("policy", lambda folder: self.learners.call("save_policy", folder))


def unweighted_samples(group: Group) -> list[tuple[Sample, int]]:
    """A group's completions that one policy version sampled whole, as training sequences without advantage, with that version."""
    prompt = group.request.token_ids
    return [
        (
            Sample(
                c.uid, c.sample, np.concatenate([prompt, c.token_ids]).astype(np.int32), len(prompt), c.logprobs, 0.0
            ),
            int(c.policy_version[0]),
        )
        for c in group.completions
        if len(c.token_ids) and (c.policy_version == c.policy_version[0]).all()
    ]
