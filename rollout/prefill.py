"""Token ids on their way into slots, in pieces that end where chunks end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..policy.slots import PolicySlots


@dataclass(slots=True, eq=False)
class PrefillWork:
    """Tokens that a slot is to hold, and how many of them it does."""

    slot: int
    ids: np.ndarray  # int32 [tokens]
    done: int = 0

    @property
    def left(self) -> int:
        return len(self.ids) - self.done


class Prefill:
    """Runs prefill work; between two calls of `run` others may decode."""

    def __init__(self, slots: PolicySlots, device: torch.device, piece: int, chunk: int):
        """piece: tokens of a call, rounded up to whole chunks of `chunk` tokens."""
        self.slots, self.device = slots, device
        self.piece = -(-piece // chunk) * chunk
        self.tokens = 0  # prefilled so far

    def run(self, work: Sequence[PrefillWork]) -> None:
        """One piece: the next tokens of the first works, at most `piece` in all.

        A work is cut at multiples of `piece` from its own start alone, so that how it is cut does not depend on its neighbours.
        """
        batch: list[tuple[PrefillWork, np.ndarray]] = []
        total = 0
        for one in work:
            ids = one.ids[one.done : one.done + self.piece]
            if total + len(ids) > self.piece:
                break
            batch.append((one, ids))
            total += len(ids)
        if not batch:
            return
        packed = torch.from_numpy(np.concatenate([ids for _, ids in batch]).astype(np.int64))
        bounds = torch.from_numpy(np.cumsum([0, *(len(ids) for _, ids in batch)]).astype(np.int32))
        self.slots.prefill(packed.to(self.device), bounds.to(self.device), [one.slot for one, _ in batch])
        for one, ids in batch:
            one.done += len(ids)
        self.tokens += total

    def run_all(self, work: Sequence[PrefillWork]) -> None:
        """All of it, from the start of the sequences."""
        self.slots.zero([one.slot for one in work])
        pending = [one for one in work if one.left]
        while pending:
            self.run(pending)
            pending = [one for one in pending if one.left]
