"""The state of the replay decode: what every slot keeps between its tokens.

A slot keeps the look-ahead state as it stood at the start of its sequence's current chunk, and the tokens since then: as the scan's tile
reads them (rotated keys, values, c, gamma, w), so that a step computes only what is its own token's; and as the projection gave them
(B after its norm, angle logits, adt, dt, trap), from which a prefill goes on inside a chunk. A full chunk is written into the state at
the first step of the next one: its last token's weight is known no earlier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import read_offsets
from .projection import Layer, check_rows, prepare
from .scan_forward import TOKEN_DIMS, Run, Start, run_tiles
from .tensors import State, Tokens
from .tile_table import FLOATS, TileTable, tile_table

ALIGNMENT = 256  # bytes to which every part of a slot is aligned
SCALARS = 6  # numbers of a token and head in the ring: adt, dt, trap, c, gamma, w


@dataclass(frozen=True)
class SlotState:
    """One layer's slots. Opaque: only this file and decode.py look inside; whole slots are zeroed, copied, exported, imported.

    Row j of a ring is token j of the slot's current chunk. At an ended chunk's next token the rows are written anew from 0.
    The parts are views of `rows`, in which a slot of all layers that were allocated together is one row of bytes.
    """

    size: int  # C, tokens of a chunk
    rows: Tensor  # uint8 [slots, bytes]
    g: Tensor  # fp32 [slots, H, P, N], the look-ahead state at the chunk's start
    g_read: Tensor  # the same as the tile reads it, in the compute dtype; in fp32 the same tensor
    theta: Tensor  # fp32 [slots, H, S], the angle there, modulo 2 pi
    turn: Tensor  # fp32 [slots, H, S], the angle since then
    ring_k: Tensor  # [slots, H, C * R, N], keys after bias and rotation, row token * R + rank
    ring_x: Tensor  # [slots, H, C, P]
    ring_scalars: Tensor  # fp32 [slots, H, 6, C]
    ring_b: Tensor  # [slots, C, R, G, N], B after its norm
    ring_angle: Tensor  # [slots, C, S], angle logits
    position: Tensor  # int32 [slots], tokens so far; counted by `advance`, never by the decode launch

    @classmethod
    def alloc(cls, layer: Layer, slots: int, dtype: torch.dtype, device: torch.device | str) -> SlotState:
        """Empty slots of one layer. Raises ValueError for a number of slots below 1 or a dtype that the tile does not compute in."""
        return cls.alloc_all([layer], slots, dtype, device)[0]

    @classmethod
    def alloc_all(
        cls, layers: Sequence[Layer], slots: int, dtype: torch.dtype, device: torch.device | str
    ) -> list[SlotState]:
        """Empty slots of several layers, which share their rows and positions: a slot of them all is copied or sent as one row."""
        if slots < 1:
            raise ValueError(f"slots: {slots} came, at least 1 wanted")
        if dtype not in FLOATS:
            raise ValueError(f"dtype: {dtype} came, one of {', '.join(map(str, FLOATS))} wanted")
        shapes = [_parts(layer, dtype) for layer in layers]
        width = sum(_bytes(*part) for parts in shapes for part in parts.values())
        rows = torch.zeros((slots, width), dtype=torch.uint8, device=device)
        position, states, begin = torch.zeros(slots, dtype=torch.int32, device=device), [], 0
        for layer, parts in zip(layers, shapes, strict=True):
            views = {}
            for name, (shape, kind) in parts.items():
                used = math.prod(shape) * kind.itemsize
                views[name] = rows[:, begin : begin + used].view(kind).unflatten(1, shape)
                begin += _bytes(shape, kind)
            views.setdefault("g_read", views["g"])
            states.append(cls(size=layer.chunk_size, rows=rows, position=position, **views))
        return states

    @property
    def decoded(self) -> tuple[Tensor, ...]:
        """What the decode launch takes, in its order."""
        return (
            self.g, self.g_read, self.theta, self.turn, self.ring_k, self.ring_x, self.ring_scalars, self.ring_b,
            self.ring_angle, self.position,
        )  # fmt: skip

    @property
    def strides(self) -> tuple[int, int]:
        """From slot to slot, in numbers of fp32 and of the compute dtype."""
        return self.g.stride(0), self.ring_x.stride(0)

    @property
    def slots(self) -> int:
        return len(self.position)

    @property
    def bytes_per_slot(self) -> int:
        """Of all layers that share the rows."""
        return self.rows.shape[1] + self.position.element_size()

    def check_layer(self, layer: Layer, dtype: torch.dtype) -> None:
        """Whether rows of this layer in this dtype belong to these slots."""
        s, held = layer.sizes, list(self.g.shape[1:])
        if dtype != self.g_read.dtype or layer.chunk_size != self.size or held != [s.H, s.P, s.N]:
            raise ValueError(
                f"state: slots of {self.g_read.dtype}, C = {self.size}, {held} came, those of the layer wanted"
            )

    def check_slot(self, name: str, slots: Sequence[int]) -> list[int]:
        for slot in slots:
            if not 0 <= slot < self.slots:
                raise ValueError(f"{name}: slot {slot} came, 0 to {self.slots - 1} wanted")
        return list(slots)

    def zero(self, slots: Sequence[int]) -> None:
        """Back to the start of a sequence, in all layers that share the rows."""
        index = self.check_slot("slots", slots)
        self.rows[index] = 0
        self.position[index] = 0

    def copy(self, src: int, dsts: Sequence[int]) -> None:
        """One slot's state into others, in all layers that share the rows: the samples of one prompt."""
        self.check_slot("src", [src])
        index = torch.tensor(self.check_slot("dsts", dsts), dtype=torch.int64, device=self.rows.device)
        for x in (self.rows, self.position):
            x.index_copy_(0, index, x[src].clone().expand(len(index), *x.shape[1:]))

    def export(self, slot: int) -> dict[str, Tensor]:
        """A slot's state in host memory, of all layers that share the rows, to be kept or sent."""
        self.check_slot("slot", [slot])
        kept = torch.empty(self.rows.shape[1], dtype=torch.uint8, pin_memory=self.rows.is_cuda)
        return {"row": kept.copy_(self.rows[slot]), "position": self.position[slot].to("cpu", copy=True)}

    def import_(self, slot: int, exported: Mapping[str, Tensor]) -> None:
        """Take over what `export` gave, also of other slots of the same layers. Raises ValueError naming the part that differs."""
        self.check_slot("slot", [slot])
        parts = {"row": self.rows[slot], "position": self.position[slot]}
        for name, own in parts.items():
            x = exported.get(name)
            if x is None or x.shape != own.shape or x.dtype != own.dtype:
                came = "nothing" if x is None else f"{list(x.shape)} {x.dtype}"
                raise ValueError(f"exported.{name}: {came} came, {list(own.shape)} {own.dtype} wanted")
        for name, own in parts.items():
            own.copy_(exported[name])

    def advance(self, slots: Tensor) -> None:
        """Count one token of every slot in int32 slots [n]; -1 is nobody. After all of a token's launches; safe in a CUDA graph."""
        self.position.index_add_(0, slots.clamp(min=0), (slots >= 0).to(torch.int32))

    def view(self, slot: int, layer: Layer) -> State:
        """The 4-tuple state after the slot's last token, one row; equal to the recurrence to rounding. Raises ValueError when empty."""
        self.check_slot("slot", [slot])
        replayed = self._replay([slot], [int(self.position[slot])])
        if replayed is None:
            raise ValueError(f"slot: {slot} came, which holds no token yet")
        s = layer.sizes
        q = replayed.k  # the outputs are not looked at
        empty = Tokens(q, replayed.k, replayed.v, replayed.v, *replayed[4:])
        table = tile_table((0, empty.v.shape[1]), self.size, self.g.device)
        run = run_tiles(empty, layer.weights, layer.pairing, table, self._start([slot]), keep=False)
        return State(run.theta_end, run.h_end, run.last_keys(table, s.R), empty.v[:, -1].float().view(1, s.H, s.P))

    def _start(self, slots: list[int]) -> Start:
        return Start(self.theta[slots].contiguous(), self.g[slots].contiguous())

    def _held(self, position: int) -> int:
        """Tokens of a slot that a scan of the following ones takes again: 1 to C of them, a full chunk not yet written."""
        return 0 if position == 0 else (position - 1) % self.size + 1

    def _replay(self, slots: list[int], positions: list[int]) -> Tokens | None:
        """The held tokens of slots, one slot after the other, [1, tokens, ...]; q and z are not kept and stand as zeros."""
        pairs = [(s, r) for s, p in zip(slots, positions, strict=True) for r in range(self._held(p))]
        if not pairs:
            return None
        slot, row = torch.tensor(pairs, device=self.g.device).unbind(1)
        k, angle, v = self.ring_b[slot, row], self.ring_angle[slot, row].unsqueeze(1), self.ring_x[slot, :, row]
        k, angle, v = (x.unsqueeze(0) for x in (k, angle, v))
        adt, dt, trap = self.ring_scalars[slot, :, :3, row].permute(2, 1, 0).unsqueeze(1).unbind(0)
        return Tokens(torch.zeros_like(k), k, v, torch.zeros_like(v), adt, dt, trap, angle)

    def fill(self, slots: list[int], tokens: Tokens, table: TileTable, run: Run) -> None:
        """Leave slots, but for their positions, after a scan whose sequences each began at a chunk's start."""
        index, tiles, C = torch.tensor(slots, device=self.g.device), table.last_tile, self.size
        self.g[index] = run.g_last
        self.g_read[index] = run.g_last.to(self.g_read.dtype)
        self.theta[index] = run.theta[tiles]
        self.turn[index] = run.turn[tiles]
        self.ring_k[index] = run.keys[:, :, : self.ring_k.shape[2]]
        # Rows past a sequence's last token repeat it: they are not read before they are written.
        token = torch.minimum(table.tiles[tiles, 0, None] + torch.arange(C, device=index.device), table.last[:, None])
        self.ring_x[index] = tokens.v[0, token].transpose(1, 2)
        self.ring_b[index] = tokens.k[0, token].to(self.ring_b.dtype)
        self.ring_angle[index] = tokens.angles[0, token, 0].to(self.ring_angle.dtype)
        raw = torch.stack([tokens.adt[0], tokens.dt[0], tokens.trap[0]], dim=1)[:, :, token]  # [H, 3, n, C]
        self.ring_scalars[index, :, :3] = raw.permute(2, 0, 1, 3)
        self.ring_scalars[index, :, 3:] = run.scalars[tiles, :, :, :C]


def _parts(layer: Layer, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a slot of a layer is made of: shapes and dtypes."""
    s, C, wide = layer.sizes, layer.chunk_size, torch.float32
    read = {} if dtype == wide else {"g_read": ((s.H, s.P, s.N), dtype)}
    return (
        {"g": ((s.H, s.P, s.N), wide)}
        | read
        | {
            "theta": ((s.H, s.S), wide),
            "turn": ((s.H, s.S), wide),
            "ring_k": ((s.H, C * s.R, s.N), dtype),
            "ring_x": ((s.H, C, s.P), dtype),
            "ring_scalars": ((s.H, SCALARS, C), wide),
            "ring_b": ((C, s.R, s.G, s.N), dtype),
            "ring_angle": ((C, s.S), dtype),
        }
    )


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Of a part, with what fills it up to the next one's start."""
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


@torch.no_grad()
def prefill(
    projection: Tensor, layer: Layer, state: SlotState, slots: Sequence[int], cu_seqlens: Tensor | None = None,
    positions: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Prompts, or their next pieces, into slots: in_proj's rows [1, T, width] of sequences end to end -> [1, T, H, P].

    cu_seqlens int32 [n + 1] cuts them, None: one sequence; slots: one for each, all different. A sequence goes on from what
    its slot holds (`SlotState.zero` before a new one). In how many pieces a prompt comes changes no bit of the outputs nor of
    the slot: the tokens that the slot holds since its last chunk are computed again. Waits for the device.
    positions: how many tokens each slot holds, where several layers share one count; it is read from there then and not moved on.
    """
    check_rows(layer, projection, 3)
    index = state.check_slot("slots", slots)
    T = projection.shape[1]
    offsets = (0, T) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    if len(projection) != 1:
        raise ValueError(f"projection: B = {len(projection)} came, 1 wanted (sequences packed along T)")
    if len(index) != len(offsets) - 1 or len(set(index)) != len(index):
        raise ValueError(f"slots: {index} came, {len(offsets) - 1} different ones wanted, one for every sequence")
    state.check_layer(layer, projection.dtype)
    held = state.position[index].tolist() if positions is None else positions
    tokens, fresh, bounds, begins = _joined(state, prepare(layer, projection), index, held, offsets)
    table = tile_table(bounds, state.size, projection.device)
    run = run_tiles(tokens, layer.weights, layer.pairing, table, state._start(index), keep=False)
    state.fill(index, tokens, table, run)
    if positions is None:
        lengths = [begin + end - start for begin, start, end in zip(begins, bounds, bounds[1:], strict=False)]
        state.position[index] = torch.tensor(lengths, dtype=torch.int32, device=state.position.device)
    return run.out[fresh].unsqueeze(0)


def _joined(
    state: SlotState, new: Tokens, slots: list[int], positions: list[int], offsets: tuple[int, ...]
) -> tuple[Tokens, Tensor | slice, tuple[int, ...], list[int]]:
    """Every sequence's held tokens before its new ones: the tokens, where the new ones lie, the bounds, the starts' positions."""
    replayed = state._replay(slots, positions)
    if replayed is None:
        return new, slice(None), offsets, positions
    held = [state._held(p) for p in positions]
    order: list[int] = []
    fresh: list[int] = []
    bounds, old = [0], 0
    for i, count in enumerate(held):
        order += [*range(old, old + count), *range(sum(held) + offsets[i], sum(held) + offsets[i + 1])]
        bounds.append(len(order))
        fresh += range(bounds[-2] + count, bounds[-1])
        old += count
    begins = [p - count for p, count in zip(positions, held, strict=True)]
    index = torch.tensor(order, device=state.g.device)
    parts = (
        torch.cat([a.to(b.dtype), b], dim).index_select(dim, index)
        for a, b, dim in zip(replayed, new, TOKEN_DIMS, strict=True)
    )
    return Tokens(*parts), torch.tensor(fresh, device=index.device), tuple(bounds), begins
