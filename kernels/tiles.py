"""Chunk tiles: where the tokens of all sequences lie in one padded [tiles, tokens, ...] tensor; the way there and back.

A sequence is cut into tiles of C tokens counted from its own start (docs/mamba3.md, section 6). Tiles are ordered by
chunk index and inside one chunk index by sequence, most chunks first: the sequences that have a chunk i are then the
first rows of those that have a chunk i - 1, and a state is carried over the chunks by slicing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor | None]  # which source row each target row copies, and which target rows are blank


class _Regroup(torch.autograd.Function):
    """Copy rows by index; the gradient is the inverse copy, so that nothing is summed and no order matters."""

    @staticmethod
    def forward(ctx, x: Tensor, pull: Tensor, blank: Tensor | None, back: Tensor, back_blank: Tensor | None) -> Tensor:
        ctx.save_for_backward(pull, blank, back, back_blank)
        rows = x.index_select(0, pull)
        return rows if blank is None else rows.index_fill_(0, blank, 0)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pull, blank, back, back_blank = ctx.saved_tensors
        return _Regroup.apply(grads[0], back, back_blank, pull, blank), None, None, None, None


@dataclass(frozen=True)
class Tiling:
    """The cut of n sequences with `tokens` tokens together into M tiles of C tokens.

    Blank rows (past the end of a sequence) are zero in a tiled tensor and receive no gradient.
    """

    size: int  # C
    counts: tuple[int, ...]  # tiles of every chunk index, never rising: counts[0] = n, sum = M
    order: Tensor | None  # int64 [n], the sequences in the order of the tiles; None: as they came
    place: Tensor | None  # int64 [n], the inverse of order
    first: Tensor  # int64 [n], the first token of every sequence
    last: Tensor  # int64 [n], the last token of every sequence
    slot: Tensor  # int64 [tokens], row m * C + c of every token
    token: Tensor  # int64 [M * C], the token of every row, 0 for a blank row
    blank: Tensor | None  # int64, the blank rows; None without any
    _rows: dict[int, tuple[Rows, Rows]] = field(default_factory=dict)

    @property
    def tiles(self) -> int:
        return sum(self.counts)

    def cut(self, x: Tensor) -> Tensor:
        """Rows [tokens, J, W] to tiles [M, J, C, W]."""
        (pull, blank), (back, _) = self._paths(x.shape[1])
        rows = _Regroup.apply(x.reshape(-1, x.shape[2]), pull, blank, back, None)
        return rows.view(self.tiles, x.shape[1], self.size, x.shape[2])

    def join(self, x: Tensor) -> Tensor:
        """Tiles [M, J, C, W] to rows [tokens, J, W]."""
        (back, blank), (pull, _) = self._paths(x.shape[1])
        rows = _Regroup.apply(x.reshape(-1, x.shape[3]), pull, None, back, blank)
        return rows.view(-1, x.shape[1], x.shape[3])

    def carry(self, start: Tensor, advance: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Take one state per sequence over its chunks, in order.

        start [n, ...] in the sequences' own order; advance(i, rows [counts[i], ...]) gives the state after chunk i.
        Returns the state before every tile [M, ...] and the last one of every sequence [n, ...], in their own order.
        """
        state = start if self.order is None else start.index_select(0, self.order)
        before, done = [], []
        for i, count in enumerate(self.counts):
            following = self.counts[i + 1] if i + 1 < len(self.counts) else 0
            before.append(state)
            state = advance(i, state)
            if following < count:
                state, ended = state.split([following, count - following])
                done.append(ended)
        final = torch.cat(done[::-1])
        return torch.cat(before), final if self.place is None else final.index_select(0, self.place)

    def _paths(self, j: int) -> tuple[Rows, Rows]:
        """Row indices of the way into the tiles and of the way back, for J rows a token."""
        if j not in self._rows:
            group = torch.arange(j, device=self.token.device)
            token, tile, column = self.token.view(-1, 1, self.size), self.slot // self.size, self.slot % self.size
            pull = (token * j + group[:, None]).flatten()
            back = ((tile[:, None] * j + group) * self.size + column[:, None]).flatten()
            blank = None
            if self.blank is not None:
                tile, column = self.blank // self.size, self.blank % self.size
                blank = ((tile[:, None] * j + group) * self.size + column[:, None]).flatten()
            self._rows[j] = (pull, blank), (back, None)
        return self._rows[j]


@lru_cache(maxsize=16)
def tiling(offsets: tuple[int, ...], chunk_size: int, device: torch.device) -> Tiling:
    """The cut of sequences offsets[i] to offsets[i + 1]; C = chunk_size, or the longest sequence if that is shorter."""
    bounds = torch.tensor(offsets)
    starts, lengths = bounds[:-1], bounds.diff()
    size = min(chunk_size, int(lengths.max()))
    chunks = (lengths + size - 1) // size
    order = torch.argsort(chunks, descending=True, stable=True)
    sorted_chunks = chunks[order]
    counts = tuple(int((sorted_chunks > i).sum()) for i in range(int(sorted_chunks[0])))
    sequence = torch.cat([order[:count] for count in counts])
    chunk = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    position = chunk[:, None] * size + torch.arange(size)  # [M, C], inside the sequence
    real = (position < lengths[sequence][:, None]).flatten()
    token = torch.where(real, (starts[sequence][:, None] + position).flatten(), 0)
    slot = torch.empty(offsets[-1], dtype=torch.int64)
    slot[token[real]] = real.nonzero()[:, 0]
    blank = (~real).nonzero()[:, 0]
    same = bool((order.diff() > 0).all())
    return Tiling(
        size=size,
        counts=counts,
        order=None if same else order.to(device),
        place=None if same else torch.argsort(order).to(device),
        first=starts.to(device),
        last=(bounds[1:] - 1).to(device),
        slot=slot.to(device),
        token=token.to(device),
        blank=blank.to(device) if len(blank) else None,
    )
