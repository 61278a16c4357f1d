"""State slots of a policy: the states of many sequences, of all layers, in fixed places on the device.

This is the border between the rollout engine, which knows sequences, and the policy, which knows what a state is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..kernels.tensors import State
from .backbone import Backbone, PolicyState
from .mixer import LayerState

MODES = ("auto", "recurrent", "replay")


class PolicySlots(Protocol):
    """States of up to `capacity` sequences. A slot is named by its number; what it holds is opaque."""

    capacity: int
    bytes_per_slot: int
    prefers_runs: bool  # decode is cheaper on slots numbered one after the other; False: any cost the same

    def zero(self, slots: Sequence[int]) -> None:
        """Back to the start of a sequence."""

    def copy(self, src: int, dsts: Sequence[int]) -> None:
        """One slot's state into others: a prompt's state into the slots of its samples."""

    def export(self, slot: int) -> dict[str, Tensor]:
        """A slot's state in host memory, whole and bit-exact."""

    def import_(self, slot: int, exported: Mapping[str, Tensor]) -> None:
        """Take over what `export` gave, also of other slots of the same policy. ValueError naming the part that differs."""

    def prefill(self, ids: Tensor, cu_seqlens: Tensor, slots: Sequence[int]) -> None:
        """Sequences end to end, int64 [T] cut by int32 [n + 1], into n different slots, from what each of them holds.

        Pieces may have any length of one token or more.
        """

    def decode(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """One token of n sequences: int64 [n], their slots int32 [n], all different, -1: nobody -> hidden [n, D].

        hidden is what the head multiplies, after the final norm; the row of nobody is not to be looked at. States change in
        place. Does not wait for the device and allocates nothing that outlives the call, so that a CUDA graph can hold it.
        """


class TensorSlots:
    """Slots that are rows of tensors: zeroed, copied, exported and imported whole. See PolicySlots."""

    capacity: int

    def hold(self, layers: Sequence[LayerState | State]) -> None:
        """Layers' states, each [capacity or more, ...], are the slots from now on."""
        self.tensors = {f"{i}.{name}": t for i, layer in enumerate(layers) for name, t in layer._asdict().items()}
        self.bytes_per_slot = sum(t[0].numel() * t.element_size() for t in self.tensors.values())

    def zero(self, slots: Sequence[int]) -> None:
        index = self._index(slots)
        for tensor in self.tensors.values():
            tensor[index] = 0

    def copy(self, src: int, dsts: Sequence[int]) -> None:
        self._check([src, *dsts])
        run = list(dsts) == list(range(dsts[0], dsts[0] + len(dsts))) and src not in dsts
        places = slice(dsts[0], dsts[-1] + 1) if run else self._index(dsts)  # a slice is written at half the cost
        for tensor in self.tensors.values():
            tensor[places] = tensor[src] if run else tensor[src].clone()

    def export(self, slot: int) -> dict[str, Tensor]:
        self._check([slot])
        return {name: tensor[slot].to("cpu", copy=True) for name, tensor in self.tensors.items()}

    def import_(self, slot: int, exported: Mapping[str, Tensor]) -> None:
        self._check([slot])
        check_exported(exported, {name: tensor[slot] for name, tensor in self.tensors.items()})
        for name, tensor in self.tensors.items():
            tensor[slot] = exported[name].to(tensor.device)

    def _check(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if not 0 <= slot < self.capacity:
                raise ValueError(f"slots: got {slot}, wanted 0 to {self.capacity - 1}")

    def _index(self, slots: Sequence[int]) -> Tensor:
        self._check(slots)
        return torch.tensor(slots, dtype=torch.long, device=next(iter(self.tensors.values())).device)


class ReferenceSlots(TensorSlots):
    """Slots of the recurrence's 4-tuple states, for every backend and device.

    Slots that are a run (s, s + 1, ...) are decoded in place on a CPU; others cost a copy of their states there and back.
    """

    def __init__(self, backbone: Backbone, state: PolicyState, backend: str):
        """state: zeros, one row more than there are slots: nobody's row, which takes what is written for slot -1."""
        self.backbone, self.state, self.backend = backbone, state, backend
        self.capacity = len(state[0].h) - 1
        self.prefers_runs = state[0].h.device.type == "cpu"
        self.hold(state)

    @torch.no_grad()
    def prefill(self, ids: Tensor, cu_seqlens: Tensor, slots: Sequence[int]) -> None:
        index = self._index(slots)
        held = [LayerState(*(tensor[index] for tensor in layer)) for layer in self.state]
        _, after = self.backbone(ids.unsqueeze(0), held, cu_seqlens=cu_seqlens, return_state=True, backend=self.backend)
        for layer, new in zip(self.state, after, strict=True):
            for tensor, value in zip(layer, new, strict=True):
                tensor[index] = value.to(tensor.dtype)

    @torch.no_grad()
    def decode(self, tokens: Tensor, slots: Tensor) -> Tensor:
        first = run_start(slots) if slots.device.type == "cpu" else None
        if first is not None:
            rows = slice(first, first + len(slots))
            view = [LayerState(*(tensor[rows] for tensor in layer)) for layer in self.state]
            return self.backbone.step(tokens, view, inplace=True, backend=self.backend)[0]
        index = torch.where(slots < 0, self.capacity, slots).long()
        held = [LayerState(*(tensor.index_select(0, index) for tensor in layer)) for layer in self.state]
        hidden, after = self.backbone.step(tokens, held, inplace=True, backend=self.backend)
        for layer, new in zip(self.state, after, strict=True):
            for tensor, value in zip(layer, new, strict=True):
                tensor.index_copy_(0, index, value)
        return hidden


def run_start(slots: Tensor) -> int | None:
    """The first of host slots that are a run, else None."""
    numbers = slots.numpy()
    first = int(numbers[0]) if len(numbers) else -1
    return first if first >= 0 and bool((numbers == np.arange(first, first + len(numbers))).all()) else None


def check_exported(exported: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the first part of an exported slot that does not fit this policy's slots."""
    for name, tensor in own.items():
        part = exported.get(name)
        if part is None or part.shape != tensor.shape or part.dtype != tensor.dtype:
            came = "nothing" if part is None else f"{list(part.shape)} {part.dtype}"
            raise ValueError(f"exported.{name}: got {came}, wanted {list(tensor.shape)} {tensor.dtype}")
    if extra := sorted(exported.keys() - own.keys()):
        raise ValueError(f"exported.{extra[0]}: got a part that this policy's slots do not have")
