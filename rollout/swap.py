"""New weights under sequences that are under way: what becomes of their states.

A state holds what the old weights made of the tokens before. `keep` goes on with it, `recompute` makes it again from the tokens. How
far apart the two are is measured on a few sequences at every swap, so that the choice can be made on a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..policy.slots import PolicySlots
from .prefill import Prefill, PrefillWork
from .sequence import LiveSequence

ON_SWAP = ("keep", "recompute")


class StateSwap:
    """Deals with the states of live sequences after the weights have changed in place."""

    def __init__(self, slots: PolicySlots, prefill: Prefill, head: Callable[[Tensor], Tensor], device: torch.device):
        self.slots, self.prefill, self.head, self.device = slots, prefill, head, device

    def recompute(self, sequences: Sequence[LiveSequence]) -> None:
        """Prefill the tokens again into the sequences' slots."""
        self.prefill.run_all([PrefillWork(s.slot, s.context()) for s in sequences])

    def divergence(self, sequences: Sequence[LiveSequence], temperature: float) -> float:
        """Sum over sequences of KL(recomputed || kept) in nats: the next token's distributions from the two states.

        Leaves the kept states as they were, bit for bit.
        """
        held = [self.slots.export(s.slot) for s in sequences]
        kept = self._next_log_p(sequences, temperature)
        self.recompute(sequences)
        anew = self._next_log_p(sequences, temperature)
        for sequence, state in zip(sequences, held, strict=True):
            self.slots.import_(sequence.slot, state)
        return float((anew.exp() * (anew - kept)).sum())

    def _next_log_p(self, sequences: Sequence[LiveSequence], temperature: float) -> Tensor:
        """fp32 [n, V]; moves the states on by a token."""
        tokens = torch.tensor([s.next_input for s in sequences], device=self.device)
        slots = torch.tensor([s.slot for s in sequences], dtype=torch.int32, device=self.device)
        return (self.head(self.slots.decode(tokens, slots)) / temperature).log_softmax(-1)


def spread_sample(sequences: Sequence[LiveSequence], count: int) -> list[LiveSequence]:
    """At most `count` of the sequences, evenly over their lengths."""
    ordered = sorted(sequences, key=lambda s: (s.length, s.request.uid, s.sample))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[i] for i in places]
