"""The endless train stream: seeded shuffled rounds over the rows, which a checkpoint continues at the same row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Prompt


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands: the next row is number `index` of round `round`."""

    round: int = 0
    index: int = 0


class PromptStream:
    """Rows without end, in rounds; each round gives every row once, in an order that (seed, round) fixes."""

    def __init__(self, rows: Sequence[Prompt], seed: int, shuffle: bool = True) -> None:
        if not rows:
            raise ValueError("data.train: got no rows, wanted one or more")
        self._rows = rows
        self._seed = seed
        self._shuffle = shuffle
        self.restore(StreamState())

    def take(self, count: int) -> list[tuple[Prompt, str]]:
        """The next `count` rows, each with its uid "<prompt id>@<round>"."""
        taken: list[tuple[Prompt, str]] = []
        while len(taken) < count:
            if self._index == len(self._rows):
                self.restore(StreamState(self._round + 1, 0))
            part = self._order[self._index : self._index + count - len(taken)]
            taken.extend((self._rows[place], f"{self._rows[place].id}@{self._round}") for place in part)
            self._index += len(part)
        return taken

    def state(self) -> StreamState:
        return StreamState(self._round, self._index)

    def restore(self, state: StreamState) -> None:
        """Continue where `state` was taken. Raises ValueError when the rows have become fewer than it had passed."""
        if state.round < 0 or not 0 <= state.index <= len(self._rows):
            raise ValueError(f"data position: got {state}, wanted one in rounds of {len(self._rows)} rows")
        self._round, self._index = state.round, state.index
        self._order = self._round_order()

    def _round_order(self) -> np.ndarray:
        """int64 [rows]. RandomState, because numpy keeps its numbers the same in all versions to come."""
        if not self._shuffle:
            return np.arange(len(self._rows))
        words = [self._seed & 0xFFFFFFFF, self._seed >> 32, self._round]
        return np.random.RandomState(words).permutation(len(self._rows))
