"""State slots on the Triton kernels: a layer's step is one launch between its two projections, and no row depends on its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..kernels.decode import mamba3_decode
from ..kernels.projection import scan_from_projection
from ..kernels.recurrent import mamba3_recurrent
from ..kernels.slot_state import SlotState, prefill
from ..kernels.tensors import State
from .backbone import Backbone, Block
from .slots import TensorSlots


class TileSlots:
    """What the two kinds of slots share: the way of hidden states through the layers."""

    prefers_runs = False

    def __init__(self, backbone: Backbone, capacity: int):
        self.backbone, self.capacity = backbone, capacity
        self.blocks = backbone.blocks
        self.layers = [
            block.mixer.layer() for block in self.blocks
        ]  # views of the parameters, which are loaded in place
        self.device = backbone.embedding.weight.device

    @torch.no_grad()
    def decode(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """See PolicySlots.decode."""
        residual = self.backbone.embed(tokens)
        for i, block in enumerate(self.blocks):
            rows = block.mixer.in_proj(block.normed(residual, "triton"), "triton")
            residual = self._finished(block, residual, self._step(i, rows, slots))
        self._advance(slots)
        return self.backbone.norm_f(residual, backend="triton")

    def _finished(self, block: Block, residual: Tensor, rows: Tensor) -> Tensor:
        return block.finish(residual, block.mixer.out_proj(rows.flatten(-2), "triton"), "triton")

    def _step(self, layer: int, rows: Tensor, slots: Tensor) -> Tensor:
        """in_proj's rows [n, width] -> what out_proj takes [n, H, P]."""
        raise NotImplementedError

    def _advance(self, slots: Tensor) -> None:
        """After all of a token's layers."""


class ReplaySlots(TileSlots):
    """The state is written once per chunk, and a token has the bits that the learner's forward pass gives it."""

    def __init__(self, backbone: Backbone, capacity: int):
        super().__init__(backbone, capacity)
        self.states = SlotState.alloc_all(self.layers, capacity, self.blocks[0].mixer.in_proj.dtype, self.device)
        self.rows = self.states[0]  # a slot's row holds all layers
        self.bytes_per_slot = self.rows.bytes_per_slot

    def zero(self, slots: Sequence[int]) -> None:
        self.rows.zero(slots)

    def copy(self, src: int, dsts: Sequence[int]) -> None:
        self.rows.copy(src, dsts)

    def export(self, slot: int) -> dict[str, Tensor]:
        return self.rows.export(slot)

    def import_(self, slot: int, exported: Mapping[str, Tensor]) -> None:
        self.rows.import_(slot, exported)

    @torch.no_grad()
    def prefill(self, ids: Tensor, cu_seqlens: Tensor, slots: Sequence[int]) -> None:
        index = self.rows.check_slot("slots", slots)
        positions = self.rows.position[index].tolist()
        residual = self.backbone.embed(ids.unsqueeze(0))
        for block, layer, state in zip(self.blocks, self.layers, self.states, strict=True):
            rows = block.mixer.in_proj(block.normed(residual, "triton"), "triton")
            out = prefill(rows, layer, state, index, cu_seqlens, positions)
            residual = self._finished(block, residual, out)
        self.rows.position[index] += cu_seqlens.diff().to(self.rows.position)

    def _step(self, layer: int, rows: Tensor, slots: Tensor) -> Tensor:
        return mamba3_decode(rows, self.layers[layer], self.states[layer], slots)

    def _advance(self, slots: Tensor) -> None:
        self.rows.advance(slots)


class RecurrentSlots(TensorSlots, TileSlots):
    """The fp32 state is read and written at every token: the smaller slot, and the plain recurrence."""

    def __init__(self, backbone: Backbone, capacity: int):
        super().__init__(backbone, capacity)
        self.states = [State(*block.mixer.empty_state(capacity, self.device)) for block in self.blocks]
        self.hold(self.states)

    @torch.no_grad()
    def prefill(self, ids: Tensor, cu_seqlens: Tensor, slots: Sequence[int]) -> None:
        index = self._index(slots)
        residual = self.backbone.embed(ids.unsqueeze(0))
        for block, layer, state in zip(self.blocks, self.layers, self.states, strict=True):
            rows = block.mixer.in_proj(block.normed(residual, "triton"), "triton")
            held = State(*(tensor[index] for tensor in state))
            out, after = scan_from_projection(rows, layer, cu_seqlens=cu_seqlens, initial_state=held, return_state=True)
            for tensor, value in zip(state, after or held, strict=True):
                tensor[index] = value
            residual = self._finished(block, residual, out)

    def _step(self, layer: int, rows: Tensor, slots: Tensor) -> Tensor:
        return mamba3_recurrent(rows, self.layers[layer], self.states[layer], slots)
