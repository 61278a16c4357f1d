"""All learner ranks as one: started together, called together, and replaced together when one dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from ..configs.errors import ConfigError, RunError
from ..configs.schema import Config
from ..observe.console import Console
from ..policy.blueprint import Blueprint
from .learner_actor import LearnerActor, LearnerTask
from .pool import first_line, last_line
from .topology import actor_options
from .watchdog import gather

DEATH_NOTICE = 8.0  # seconds until Ray knows of a death


class LearnerLost(RunError):
    """A learner rank died; what it held is in the last checkpoint."""


class LearnerGroup:
    """`learner.actors` ranks of one process group."""

    def __init__(self, blueprint: Blueprint, config: Config, task: LearnerTask):
        self.blueprint, self.config, self.task = blueprint, config, task
        self.actors: list[Any] = []

    def start(self, checkpoint: str = "") -> None:
        """Start every rank, join them, and restore a checkpoint when one is given."""
        remote = ray.remote(LearnerActor).options(**actor_options(self.config, "learner"))
        ranks = range(self.config.learner.actors)
        self.actors = [remote.remote(rank, self.blueprint, self.config, self.task) for rank in ranks]
        try:
            first = gather([self.actors[0].address.remote()], self.config.learner.timeout, "start of learner rank 0")
        except RayActorError as error:
            raise lost(error, "starting") from error
        address, port = first[0]
        try:
            self.call("join", address, port)
            if checkpoint:
                self.call("load", checkpoint)
        except RayTaskError as error:
            if isinstance(error.cause, ValueError | OSError):  # a policy or a checkpoint that does not fit
                raise ConfigError(first_line(error.cause)) from error
            raise

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call a method on all ranks and wait; results by rank. Raises LearnerLost when a rank dies, StallError when it is silent."""
        return self._answers([getattr(actor, method).remote(*args) for actor in self.actors], method)

    def _answers(self, refs: list[Any], method: str) -> list[Any]:
        try:
            return gather(refs, self.config.learner.timeout, f"learner {method}")
        except RayActorError as error:
            raise lost(error, method) from error
        except FloatingPointError as error:
            raise RunError(last_line(error)) from error
        except RayTaskError as error:  # a survivor's collective fails before its neighbour's death is known
            if self._somebody_died():
                raise LearnerLost(f"a learner rank died in {method}: {last_line(error)}") from error
            raise

    def _somebody_died(self) -> bool:
        """Whether a rank's process is gone, as far as Ray knows within a few seconds."""
        pending = [actor.pid.remote() for actor in self.actors]
        deadline = time.monotonic() + DEATH_NOTICE
        while pending and time.monotonic() < deadline:
            done, pending = ray.wait(pending, num_returns=1, timeout=0.5)
            try:
                ray.get(done)
            except RayActorError:
                return True
        return bool(pending)

    def export(self, number: int) -> Any:
        """Reference to the weights as they are broadcast, in the object store; only rank 0 makes them. Raises as `call` does."""
        refs = [actor.export.remote(number) for actor in self.actors]
        # Rank 0's answer would bring the weights here; the one to its next call says that they are there.
        self._answers([*refs[1:], self.actors[0].pid.remote()], "export")
        return refs[0]

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


def with_restarts(
    learners: LearnerGroup, config: Config, console: Console, attempt: Callable[[bool], None], resume: bool
) -> None:
    """Run `attempt(resume)`; when it loses a learner run it again from the last checkpoint, `train.max_restarts` times at most."""
    attempts_left = config.train.max_restarts
    while True:
        try:
            return attempt(resume)
        except LearnerLost as death:
            if attempts_left == 0:
                raise
            attempts_left -= 1
            console.warn(f"{death}; starting the learners again from the last checkpoint")
            learners.kill()
            resume = True


def lost(error: RayActorError, doing: str) -> RunError:
    """A death is a LearnerLost, from which a run recovers; an actor that cannot even start is not."""
    if getattr(error, "actor_init_failed", False):
        return RunError(f"a learner rank could not start: {last_line(error)}")
    return LearnerLost(f"a learner rank died in {doing}: {first_line(error)}")
