"""The two stages between a prompt and a judged group, on pools of actors: generate and verify."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import ray

from ..configs.schema import Config
from ..observe.console import Console
from ..policy.blueprint import Blueprint
from ..records import Completion, Group, Request, RolloutStats, Sampling, Task, Verdict
from .pool import ActorPool
from .rollout_actor import RolloutActor
from .topology import actor_options
from .verifier_actor import VerifierActor
from .watchdog import StopFlag

SLOT_FULLS = 4  # of samples that a rollout call may hold: the engine refills slots from them as sequences end
RESTART_SECONDS = 5.0  # of a verifier's process, with its imports, on a busy machine
AUTOMATIC_SLOTS = 256  # taken for the number of slots where the actor finds it
AHEAD = 4  # units per actor that are under way or wait for an earlier one, where results are wanted in order
Advance = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Gathered:
    """A step's judged groups, and how long the stages took."""

    groups: tuple[Group, ...]
    seconds_rollout: float  # until the last completion was there
    seconds_verify: float  # from then to the last verdict; most judging overlaps with generation
    sampled_lengths: tuple[int, ...] = ()  # of all completions that came in, also of groups that are not whole
    engines: RolloutStats = field(default_factory=RolloutStats)  # what the engines have done since they were made
    pending: tuple[str, ...] = ()  # uids of groups begun that belong to later steps


class Stages:
    """Rollout and verifier actors, the weights they were last given, and the way of a prompt through them."""

    def __init__(
        self, blueprint: Blueprint, config: Config, console: Console, stop: StopFlag, judged: bool = True,
        named: Sequence[str] = (),
    ):  # fmt: skip
        """judged False: rollouts alone, without verifier actors. named: verifiers that rows name."""
        self.config, self.console, self.stop = config, console, stop
        self.weights: Any = None  # reference to the last published version
        self.unsettled: dict[Any, tuple[int, Any]] = {}
        rollout = ray.remote(RolloutActor).options(**actor_options(config, "rollout"))
        verifier = ray.remote(VerifierActor).options(**actor_options(config, "verifier"))
        shared = ray.put(blueprint)
        restarts = config.train.max_restarts
        self.rollouts = ActorPool(
            "rollout", lambda: rollout.remote(shared, config), config.rollout.actors, restarts=restarts,
            timeout=config.rollout.timeout, prepare=self._prepare, on_restart=console.warn,
        )  # fmt: skip
        self.verifiers = ActorPool(
            "verifier", lambda: verifier.remote(config, named), config.verifier.actors if judged else 0, restarts=restarts,
            timeout=judging_bound(config), on_restart=console.warn,
        )  # fmt: skip

    def _prepare(self, actor: Any) -> None:
        if self.weights is not None:
            actor.update_weights.remote(self.weights)  # calls to an actor run in the order they were made

    def publish(self, weights: Any) -> None:
        """Send a version (a reference to it) to all rollout actors, behind whatever they are doing; `settle` waits for it."""
        self.settle()
        self.weights = weights
        self.unsettled = self.rollouts.broadcast("update_weights", weights)

    def settle(self) -> None:
        """Wait until every rollout actor has the last published weights."""
        refs, self.unsettled = self.unsettled, {}
        self.rollouts.settle(refs, "weight update")

    def make_groups(self, tasks: Sequence[Task], sampling: Sampling, advance: Advance = lambda n: None) -> Gathered:
        """Complete and judge every task; groups come in the order of the tasks."""
        started = time.monotonic()
        finished = started
        by_uid = {task.request.uid: task for task in tasks}
        if len(by_uid) != len(tasks):
            raise ValueError("make_groups: got two tasks with one uid, wanted every uid once")

        def batches() -> Iterator[tuple[list[tuple[Task, Completion]]]]:
            nonlocal finished
            for completions in self.completions([t.request for t in tasks], sampling):
                finished = time.monotonic()
                for batch in whole_groups(completions, self.config.verifier.batch):
                    yield ([(by_uid[c.uid], c) for c in batch],)

        judged: dict[str, dict[int, tuple[Completion, Verdict]]] = {uid: {} for uid in by_uid}
        for (items,), verdicts in self.verifiers.map("score", batches(), in_flight=2, stop=self.stop):
            for (_, completion), verdict in zip(items, verdicts, strict=True):
                judged[completion.uid][completion.sample] = (completion, verdict)
            advance(len(items))
        groups = tuple(_group(task, judged[task.request.uid]) for task in tasks)
        seconds_verify = time.monotonic() - finished
        return Gathered(groups, finished - started, seconds_verify, engines=self.rollout_stats())

    def completions(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """Completions of one unit of work after the other, as units end."""
        size = unit_size(self.config, len(requests), max(request.samples for request in requests))
        units = [(requests[i : i + size], sampling) for i in range(0, len(requests), size)]
        for _, completions in self.rollouts.map("generate", units, in_flight=2, stop=self.stop):
            yield completions

    def in_order(self, units: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """Completions of each unit, in the order of the units. They are drawn as actors become free, and no further ahead than
        AHEAD units per actor."""
        drawn: deque[str] = deque()  # names of the units drawn and not yet given back
        found: dict[str, list[Completion]] = {}

        def source() -> Iterator[tuple[Sequence[Request], Sampling] | None]:
            for unit in units:
                while len(drawn) >= AHEAD * self.config.rollout.actors:
                    yield None
                drawn.append(unit[0].uid)
                yield unit, sampling

        for (requests, _), completions in self.rollouts.map("generate", source(), in_flight=2, stop=self.stop):
            found[requests[0].uid] = completions
            while drawn and drawn[0] in found:
                yield found.pop(drawn.popleft())

    def rollout_stats(self) -> RolloutStats:
        """What all rollout actors have done together; an actor that died takes its part along."""
        each = self.rollouts.settle(self.rollouts.broadcast("stats"), "statistics")
        return RolloutStats(*(sum(values) for values in zip(*(astuple(stats) for stats in each), strict=True)))

    def close(self) -> None:
        self.rollouts.kill()
        self.verifiers.kill()


def unit_size(config: Config, requests: int, samples: int) -> int:
    """Requests of one rollout call: an actor's share of them, or what fills its slots a few times."""
    share = math.ceil(requests / config.rollout.actors)
    return max(1, min(share, SLOT_FULLS * (config.rollout.slots or AUTOMATIC_SLOTS) // samples))


def whole_groups(completions: Sequence[Completion], size: int) -> Iterator[list[Completion]]:
    """Batches of about `size` completions in their order. The samples of a request, which follow each other, stay together: its
    reward may be a function of all of them."""
    batch: list[Completion] = []
    for _, samples in itertools.groupby(completions, key=lambda completion: completion.uid):
        group = list(samples)
        if batch and len(batch) + len(group) > size:
            yield batch
            batch = []
        batch += group
    if batch:
        yield batch


def judging_bound(config: Config) -> float:
    """Seconds a verifier call may take: every answer of two queued batches at its limit, all retries, and one attempt more to find
    out whose fault it was; each with the start of a new process."""
    v = config.verifier
    most = max(v.batch, config.train.group, config.eval.samples)
    return 60.0 + 2 * most * (v.timeout + RESTART_SECONDS) * (2 + v.retries)


def _group(task: Task, judged: dict[int, tuple[Completion, Verdict]]) -> Group:
    if len(judged) != task.request.samples:
        raise RuntimeError(f"{task.request.uid}: {len(judged)} of {task.request.samples} samples came back")
    rows = [judged[i] for i in range(task.request.samples)]
    return Group(task.prompt, task.request, tuple(c for c, _ in rows), tuple(v for _, v in rows))
