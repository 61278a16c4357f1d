"""A pool of like actors: work units go to the least loaded one, and a dead actor is replaced and its units issued again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from ..configs.errors import RunError
from .watchdog import SLICE, StallError, StopFlag


class PoolExhausted(RunError):
    """An actor died more often than the configuration allows."""


@dataclass(slots=True)
class Flight:
    """A unit under way on one member."""

    unit: Any
    member: int
    actor: Any
    started: float


class ActorPool:
    """`count` actors of one kind, made by `make()`; `prepare(actor)` readies a fresh one (weights)."""

    def __init__(
        self, name: str, make: Callable[[], Any], count: int, *, restarts: int, timeout: float,
        prepare: Callable[[Any], Any] | None = None, on_restart: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.name, self.make, self.timeout = name, make, timeout
        self.prepare, self.on_restart = prepare, on_restart
        self.restarts_left = [restarts] * count
        self.restarted = 0
        self.lock = threading.Lock()
        self.members = [make() for _ in range(count)]

    def map(
        self, method: str, units: Iterable[Any], *, in_flight: int = 1, stop: StopFlag | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (unit, result) as results come; every unit exactly once, whatever dies. `method` takes the unit as its arguments.
        Units are drawn as members become free, so that pools can be chained; a source that has none just now, while others are
        under way, gives None and is asked again.

        Raises StallError naming the unit when a call outlasts the pool's timeout, PoolExhausted, Interrupted, and errors of the
        method itself.
        """
        source, waiting = iter(units), deque[Any]()  # waiting: units that came back from a dead member
        flights: dict[Any, Flight] = {}
        while True:
            if stop is not None:
                stop.check()
            self._launch(method, source, waiting, flights, in_flight)
            if not flights:
                return
            ray.wait(list(flights), num_returns=1, timeout=SLICE)
            done, _ = ray.wait(list(flights), num_returns=len(flights), timeout=0)
            for ref in done:
                if ref not in flights:  # went down with a member that died under another ref of this round
                    continue
                flight = flights.pop(ref)
                try:
                    result = ray.get(ref)
                except RayActorError as error:
                    waiting.appendleft(flight.unit)
                    self._recover(flight, flights, waiting, error)
                    continue
                yield flight.unit, result
            # While a result was being consumed others may have come in: only what is still out can be late.
            _, out = ray.wait(list(flights), num_returns=len(flights), timeout=0) if flights else ([], [])
            self._check_deadlines(method, [flights[ref] for ref in out])

    def _launch(
        self, method: str, source: Iterator[Any], waiting: deque[Any], flights: dict[Any, Flight], in_flight: int
    ) -> None:
        """Give units to members until each has `in_flight` of them or there are no more."""
        load = [0] * len(self.members)
        for flight in flights.values():
            load[flight.member] += 1
        while min(load) < in_flight:
            unit = waiting.popleft() if waiting else next(source, None)
            if unit is None:
                return
            member = load.index(min(load))
            ref = getattr(self.members[member], method).remote(*unit)
            flights[ref] = Flight(unit, member, self.members[member], time.monotonic())
            load[member] += 1

    def _recover(self, dead: Flight, flights: dict[Any, Flight], waiting: deque[Any], error: Exception) -> None:
        """Replace a dead member; its other units are issued again."""
        lost = [ref for ref, flight in flights.items() if flight.actor is dead.actor]
        waiting.extendleft(flights.pop(ref).unit for ref in reversed(lost))
        self.replace(dead.member, dead.actor, error)

    def replace(self, member: int, dead: Any, error: Exception) -> None:
        """Start a fresh actor in a dead one's place, unless another thread that saw the same death has done so."""
        with self.lock:
            if self.members[member] is dead:
                self._replace(member, error)

    def _replace(self, member: int, error: Exception) -> None:
        if getattr(error, "actor_init_failed", False):
            raise PoolExhausted(f"{self.name} actor {member} could not start: {last_line(error)}") from error
        if self.restarts_left[member] == 0:
            raise PoolExhausted(
                f"{self.name} actor {member} died once more than train.max_restarts allows: {first_line(error)}"
            )
        self.restarts_left[member] -= 1
        self.restarted += 1
        self.on_restart(
            f"{self.name} actor {member} died ({first_line(error)}); a new one takes its place and its work"
        )
        ray.kill(self.members[member])
        self.members[member] = self.make()
        if self.prepare is not None:
            self.prepare(self.members[member])

    def _check_deadlines(self, method: str, flights: list[Flight]) -> None:
        now = time.monotonic()
        for flight in flights:
            if now - flight.started > self.timeout:
                raise StallError(
                    f"{self.name} actor {flight.member}: {method} of {describe(flight.unit)} has not answered "
                    f"after {self.timeout:.0f} s"
                )

    def broadcast(self, method: str, *args: Any) -> dict[Any, tuple[int, Any]]:
        """Call a method on every member without waiting; -> {ref: (member, actor)}."""
        return {getattr(actor, method).remote(*args): (i, actor) for i, actor in enumerate(self.members)}

    def settle(self, refs: dict[Any, tuple[int, Any]], what: str) -> list[Any]:
        """Wait for a broadcast; a member that died meanwhile is replaced and prepared. Results of the others."""
        deadline, results, pending = time.monotonic() + self.timeout, [], list(refs)
        while pending:
            if time.monotonic() > deadline:
                names = ", ".join(str(refs[ref][0]) for ref in pending)
                raise StallError(f"{what}: {self.name} actors {names} have not answered after {self.timeout:.0f} s")
            done, pending = ray.wait(pending, num_returns=1, timeout=SLICE)
            for ref in done:
                try:
                    results.append(ray.get(ref))
                except RayActorError as error:
                    self.replace(*refs[ref], error)
        return results

    def kill(self) -> None:
        for actor in self.members:
            ray.kill(actor)
        self.members = []


def describe(unit: Any) -> str:
    """A unit's content in a few words: the names of its first rows."""
    rows = unit[0] if isinstance(unit, tuple) and unit else unit
    names = [
        str(getattr(row, "uid", None) or getattr(row[1] if isinstance(row, tuple) else row, "uid", row)) for row in rows
    ]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: Exception) -> str:
    """Of a remote traceback: the error itself."""
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)
