"""From requests that wait to sequences that decode: slots, prefill, forks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..policy.slots import PolicySlots
from .prefill import Prefill, PrefillWork
from .sequence import LiveSequence
from .slots import SlotPool


@dataclass(slots=True, eq=False)
class Arrival:
    """Sequences that start from one state: the samples of a prompt, or a parked sequence by itself."""

    sequences: list[LiveSequence]  # those without a slot, in order
    ids: np.ndarray  # int32, tokens that the state is made of
    state: dict[str, Tensor] | None = None  # as exported; None: to be made from the tokens
    placed: list[LiveSequence] = field(default_factory=list)  # those that have a slot and wait for the state
    work: PrefillWork | None = None  # the prefill that makes it, in the first placed one's slot

    def place(self, pool: SlotPool) -> None:
        """Give slots to as many as there are."""
        count = min(pool.free, len(self.sequences))
        for sequence in self.sequences[:count]:
            sequence.place(pool.take())
        self.placed += self.sequences[:count]
        del self.sequences[:count]


class Admission:
    """The queue in front of the slots. A prompt is prefilled once; its state is copied to the slots of its samples."""

    def __init__(self, slots: PolicySlots, pool: SlotPool, prefill: Prefill):
        self.slots, self.pool, self.prefill = slots, pool, prefill
        self.waiting: deque[Arrival] = deque()
        self.prefilling: list[Arrival] = []  # in order of admission

    def __bool__(self) -> bool:
        return bool(self.waiting or self.prefilling)

    def __len__(self) -> int:
        """Sequences that are not decoding yet."""
        return sum(len(a.placed) + len(a.sequences) for a in (*self.prefilling, *self.waiting))

    def admit(self) -> list[LiveSequence]:
        """Fill free slots from the queue, as long as no more than a piece of tokens waits for prefill -> those that can decode.

        Where a group's samples do not all fit, the rest stays first in the queue, with the state in host memory.
        """
        ready: list[LiveSequence] = []
        empty: list[int] = []  # slots that start from nothing
        for arrival in self.prefilling:
            arrival.place(self.pool)
        queued = sum(arrival.work.left for arrival in self.prefilling if arrival.work)
        while self.waiting and self.pool.free and queued < self.prefill.piece:
            arrival = self.waiting.popleft()
            arrival.place(self.pool)
            first = arrival.placed[0].slot
            if arrival.state is None and len(arrival.ids):
                arrival.work = PrefillWork(first, arrival.ids)
                self.prefilling.append(arrival)
                queued += len(arrival.ids)
                empty.append(first)
            elif arrival.state is None:
                empty += [sequence.slot for sequence in arrival.placed]
                ready += self._taken(arrival)
            else:
                self.slots.import_(first, arrival.state)
                ready += self._forked(arrival)
        if empty:
            self.slots.zero(empty)
        return ready

    def run_piece(self) -> list[LiveSequence]:
        """Prefill one piece -> the sequences whose prompt is whole."""
        self.prefill.run([arrival.work for arrival in self.prefilling if arrival.work])
        whole = [arrival for arrival in self.prefilling if arrival.work and not arrival.work.left]
        self.prefilling = [arrival for arrival in self.prefilling if arrival not in whole]
        return [sequence for arrival in whole for sequence in self._forked(arrival)]

    def _forked(self, arrival: Arrival) -> list[LiveSequence]:
        """The state from the first placed one's slot into the others', and to the host for those without one."""
        first, *others = (sequence.slot for sequence in arrival.placed)
        if others:
            self.slots.copy(first, others)
        if arrival.sequences and arrival.state is None:
            arrival.state = self.slots.export(first)
        return self._taken(arrival)

    def _taken(self, arrival: Arrival) -> list[LiveSequence]:
        placed, arrival.placed, arrival.work = arrival.placed, [], None
        if arrival.sequences:
            self.waiting.appendleft(arrival)
        return placed

    def entries(self) -> list[tuple[Arrival, LiveSequence]]:
        """Every sequence that is not decoding yet, with what it starts from, in order of admission."""
        return [(a, s) for a in (*self.prefilling, *self.waiting) for s in (*a.placed, *a.sequences)]

    def sequences(self) -> list[LiveSequence]:
        return [sequence for _, sequence in self.entries()]

    def remove(self, sequences: set[LiveSequence]) -> None:
        """Take sequences out; their slots become free."""
        for arrival in (*self.prefilling, *self.waiting):
            gone = [sequence for sequence in arrival.placed if sequence in sequences]
            if arrival.work and arrival.placed[0] in gone and len(gone) < len(arrival.placed):
                keeper = next(s for s in arrival.placed if s not in sequences)  # takes over the slot with the prefill
                keeper.slot, arrival.placed[0].slot = arrival.placed[0].slot, keeper.slot
                arrival.placed.remove(keeper)
                arrival.placed.insert(0, keeper)
            for sequence in gone:
                self.pool.release(sequence.slot)
                sequence.slot = -1
            arrival.placed = [sequence for sequence in arrival.placed if sequence not in sequences]
            arrival.sequences = [sequence for sequence in arrival.sequences if sequence not in sequences]
            if arrival.work and not arrival.placed and arrival.sequences:  # nobody has a slot any more: begin again
                arrival.work = None
                self.waiting.appendleft(arrival)
        self.prefilling = [arrival for arrival in self.prefilling if arrival.placed]
        self.waiting = deque(arrival for arrival in self.waiting if arrival.sequences)

    def clear(self) -> None:
        self.waiting.clear()
        self.prefilling.clear()

    def new_weights(self, keep: bool) -> None:
        """Make states anew from the tokens, those under prefill too; with `keep` only those of samples that have no token yet.

        A sample whose tokens all carry one version is then the work of that version alone.
        """
        for arrival in self.waiting:
            if not (keep and arrival.sequences[0].length):
                arrival.state = None
        begun = [a for a in self.prefilling if a.work and not (keep and a.placed[0].length)]
        for arrival in begun:
            arrival.work = PrefillWork(arrival.placed[0].slot, arrival.ids)
        if begun:
            self.slots.zero([arrival.placed[0].slot for arrival in begun])
