"""Partial rollouts: a step ends when enough of its groups are there, and the others go on first in the next one.

Rollout actors hold what was submitted to them and work on it in slices; groups go to whoever has the least left to do. Between two
slices weights may change, and unfinished sequences stay in their slots. A finished sample of an unfinished group waits here for the
rest of its group; a group is judged whole.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError

from ..records import Completion, Group, ParkedSequence, Request, Sampling, Task, Verdict
from .stages import AUTOMATIC_SLOTS, Gathered, Stages, whole_groups
from .watchdog import SLICE, StallError

SLOT_FULLS = 1.5  # of unfinished samples that an actor is given: what is beyond its slots refills them within a slice
WORK_SECONDS = 0.5  # of a slice at most: how long new weights, and the end of a step, may wait for an actor


@dataclass(frozen=True, slots=True)
class Flight:
    """A call to an actor under way."""

    method: str
    member: int
    actor: Any
    started: float


@dataclass(slots=True)
class BegunGroup:
    """A group under way."""

    task: Task
    member: int | None = None  # of the rollout actors, which has its unfinished samples; None: not sent yet
    completions: dict[int, Completion] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[int]:
        """Samples that are still being generated."""
        return [i for i in range(self.task.request.samples) if i not in self.completions]

    def group(self) -> Group:
        order = range(self.task.request.samples)
        return Group(
            self.task.prompt, self.task.request, tuple(self.completions[i] for i in order),
            tuple(self.verdicts[i] for i in order),
        )  # fmt: skip


class PartialRollouts:
    """Groups under way on the rollout actors of `stages`, over any number of steps."""

    def __init__(self, stages: Stages, sampling: Sampling):
        self.stages, self.sampling = stages, sampling
        self.begun: dict[str, BegunGroup] = {}  # by uid, in the order of their beginning
        self.holders: list[Any] = list(stages.rollouts.members)  # the actors that were given what is under way
        self.flights: dict[Any, Flight] = {}
        self.arrived: list[int] = []  # lengths of the completions that came in during the step
        self._cancelled = threading.Event()

    def missing(self) -> int:
        """How many groups to begin, for a step's share and what is begun beyond it."""
        config = self.stages.config
        return max(0, math.ceil(config.train.prompts * (1 + config.rollout.oversample)) - len(self.begun))

    def restart(self, tasks: Sequence[Task]) -> None:
        """Forget what is under way and begin these."""
        pool = self.stages.rollouts
        pool.settle(pool.broadcast("abort"), "abort")
        self.begun.clear()
        self.flights.clear()
        self.holders = list(pool.members)
        self._begin(tasks)

    def make_groups(self, tasks: Sequence[Task], wanted: int) -> Gathered:
        """Begin new tasks behind those under way; -> the first `wanted` groups that are whole, in the order of their beginning.

        Raises StallError naming what is under way when an actor does not answer, PoolExhausted, Interrupted.
        """
        started = finished = time.monotonic()
        self._begin(tasks)
        self._cancelled.clear()
        self.arrived.clear()
        inbox: queue.SimpleQueue[list[Completion] | None] = queue.SimpleQueue()
        verify = self.stages.verifiers
        with ThreadPoolExecutor(1) as side:
            rolling = side.submit(self._roll, inbox, wanted)
            try:
                for (items,), verdicts in verify.map("score", self._batches(inbox), in_flight=2, stop=self.stages.stop):
                    for (_, completion), verdict in zip(items, verdicts, strict=True):
                        self.begun[completion.uid].verdicts[completion.sample] = verdict
            finally:
                self._cancelled.set()
            finished = rolling.result()
        whole = [uid for uid, g in self.begun.items() if len(g.verdicts) == g.task.request.samples][:wanted]
        groups = tuple(self.begun.pop(uid).group() for uid in whole)
        seconds_verify, engines = time.monotonic() - finished, self.stages.rollout_stats()
        return Gathered(groups, finished - started, seconds_verify, tuple(self.arrived), engines, tuple(self.begun))

    def _begin(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.request.uid in self.begun:
                raise ValueError(f"{task.request.uid}: got a group that is under way already")
            self.begun[task.request.uid] = BegunGroup(task)

    def _send(self) -> None:
        """Groups in order, each to the actor with the fewest unfinished samples, as long as one has not enough for its slots."""
        load = [0] * len(self.holders)
        for group in self.begun.values():
            if group.member is not None:
                load[group.member] += len(group.unfinished)
        enough = SLOT_FULLS * (self.stages.config.rollout.slots or AUTOMATIC_SLOTS)
        batches: list[list[Request]] = [[] for _ in load]
        for group in [g for g in self.begun.values() if g.member is None]:
            member = load.index(min(load))
            if load[member] >= enough:
                break
            group.member = member
            load[member] += group.task.request.samples
            batches[member].append(group.task.request)
        for member, requests in enumerate(batches):
            if requests:
                self._call(member, "submit", requests, self.sampling)

    def _call(self, member: int, method: str, *arguments: Any) -> None:
        actor = self.holders[member]
        ref = getattr(actor, method).remote(*arguments)
        self.flights[ref] = Flight(method, member, actor, time.monotonic())

    def _batches(self, inbox: Any) -> Iterator[tuple[list[tuple[Task, Completion]]]]:
        """Units of whole groups for the verifiers, until the rollout has ended."""
        while True:
            try:
                completions = inbox.get(timeout=SLICE)
            except queue.Empty:  # the rollout has its own deadlines, and says when it ends for any reason
                continue
            if completions is None:
                return
            for batch in whole_groups(completions, self.stages.config.verifier.batch):
                yield ([(self.begun[c.uid].task, c) for c in batch],)

    def _roll(self, inbox: Any, wanted: int) -> float:
        """Have the actors work until `wanted` groups are whole and no call is under way; -> when that was."""
        try:
            while True:
                self.stages.stop.check()
                whole = sum(not group.unfinished for group in self.begun.values())
                if whole < wanted and not self._cancelled.is_set():
                    self._issue_again()
                    self._send()
                    self._launch(wanted - whole)
                if not self.flights:
                    return time.monotonic()
                done, _ = ray.wait(list(self.flights), num_returns=1, timeout=SLICE)
                for ref in done:
                    flight = self.flights.pop(ref)
                    try:
                        self._take(ray.get(ref) or [], inbox)
                    except RayActorError as error:
                        self.stages.rollouts.replace(flight.member, flight.actor, error)
                self._check_deadlines()
        finally:
            inbox.put(None)

    def _launch(self, groups: int) -> None:
        """A slice for every actor that has something to do and is not at it; it comes after what was submitted before."""
        able = {g.member for g in self.begun.values() if g.member is not None and g.unfinished}
        for member in sorted(able - {flight.member for flight in self.flights.values() if flight.method == "work"}):
            self._call(member, "work", WORK_SECONDS, math.ceil(groups / len(able)))

    def _take(self, completions: list[Completion], inbox: Any) -> None:
        """Keep completions that have not been there before; groups that are whole with them go on to the verifiers."""
        fresh = [c for c in completions if c.sample not in self.begun[c.uid].completions]
        for completion in fresh:
            self.begun[completion.uid].completions[completion.sample] = completion
        self.arrived += [len(c.token_ids) for c in fresh]
        touched = [self.begun[uid] for uid in dict.fromkeys(c.uid for c in fresh)]
        whole = [c for g in touched if not g.unfinished for _, c in sorted(g.completions.items())]
        if whole:
            inbox.put(whole)

    def _issue_again(self) -> None:
        """What was on actors that have died goes to those in their place, from its beginning; whole samples are kept."""
        nothing = np.zeros(0, np.int32)
        for member, actor in enumerate(self.stages.rollouts.members):
            if actor is self.holders[member]:
                continue
            self.holders[member] = actor
            lost = [
                ParkedSequence(g.task.request, i, self.sampling, nothing, np.zeros(0, np.float32), nothing, 0.0, None)
                for g in self.begun.values() if g.member == member for i in g.unfinished
            ]  # fmt: skip
            self._call(member, "submit", [], self.sampling, lost)

    def _check_deadlines(self) -> None:
        for flight in self.flights.values():
            if time.monotonic() - flight.started > self.stages.rollouts.timeout:
                uids = [uid for uid, g in self.begun.items() if g.member == flight.member and g.unfinished]
                raise StallError(
                    f"rollout actor {flight.member}: {flight.method} has not ended after {self.stages.rollouts.timeout:.0f} s; "
                    f"under way: {', '.join(uids[:3])}{' ...' if len(uids) > 3 else ''}"
                )
