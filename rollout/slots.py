"""State slots: one fixed-size row of every layer's state per live sequence, and the sequence's bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..policy.mamba3 import Mamba3ForCausalLM, PolicyState
from ..records import Request


@dataclass(slots=True)
class LiveSequence:
    """One sample under way."""

    request: Request
    sample: int
    key: int  # 64-bit name of its sampling noise
    next_input: int  # token to be fed at the next step
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


class SlotPool:
    """`capacity` state rows; the live ones are always rows 0..n-1, so that a decode step works on one contiguous view.

    A freed row is filled by the last live one. Rows are written in place; nothing is allocated after construction.
    """

    def __init__(self, model: Mamba3ForCausalLM, capacity: int):
        self.capacity = capacity
        self.state: PolicyState = model.empty_state(capacity)
        self.live: list[LiveSequence] = []

    @property
    def free(self) -> int:
        return self.capacity - len(self.live)

    def admit(self, sequences: list[LiveSequence], state: PolicyState | None, source: list[int]) -> None:
        """Take sequences in; sequence i starts from row source[i] of `state` (-1 or no state: from zero)."""
        first = len(self.live)
        rows = slice(first, first + len(sequences))
        index = torch.tensor(source, device=self.state[0].h.device)
        for layer, slots in enumerate(self.state):
            for part, tensor in enumerate(slots):
                if state is None:
                    tensor[rows] = 0
                else:
                    tensor[rows] = state[layer][part][index.clamp(min=0)]
                    tensor[rows][index < 0] = 0
        self.live.extend(sequences)

    def view(self) -> PolicyState:
        """The live rows of every layer's state."""
        n = len(self.live)
        return [type(slots)(*(tensor[:n] for tensor in slots)) for slots in self.state]

    def release(self, finished: list[int]) -> list[int]:
        """Free the rows `finished`; returns, for every row that stays live, the row it had before."""
        if not finished:
            return list(range(len(self.live)))
        gone = set(finished)
        n = len(self.live) - len(gone)
        movers = [row for row in range(n, len(self.live)) if row not in gone]
        holes = sorted(row for row in gone if row < n)
        order = list(range(n))
        if holes:
            to, source = torch.tensor(holes), torch.tensor(movers)
            for slots in self.state:
                for tensor in slots:
                    tensor[to] = tensor[source]
        for hole, mover in zip(holes, movers, strict=True):
            self.live[hole] = self.live[mover]
            order[hole] = mover
        del self.live[n:]
        return order


def prefill_batch(requests: list[Request]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Pack all prompt tokens but each prompt's last, which the first decode step takes.

    -> token ids int64 [T], cu_seqlens int32 [n + 1], and for every request its row of the resulting state (-1: a prompt of one
    token has none).
    """
    bodies = [r.token_ids[:-1] for r in requests]
    rows, used = [], 0
    for body in bodies:
        rows.append(used if len(body) else -1)
        used += bool(len(body))
    packed = [body for body in bodies if len(body)]
    ids = np.concatenate(packed).astype(np.int64) if packed else np.zeros(0, np.int64)
    return ids, np.cumsum([0, *map(len, packed)]).astype(np.int32), rows
