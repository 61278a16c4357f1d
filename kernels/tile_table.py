"""Which tokens a tile holds, and how the kernels that compute tiles are launched: what the host tells them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .checks import Sizes
from .launch_table import lookup
from .operands import architecture

WIDTHS = (16, 32, 64, 128)  # of N and P
RANKS = (1, 2, 4, 8)
ROWS = 128  # most rows (token, rank) of a tile
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class TileTable(NamedTuple):
    """The cut of n sequences into tiles of C tokens, sequence after sequence, chunks counted from a sequence's own start."""

    size: int  # C
    tiles: Tensor  # int32 [tiles, 2]: the first token, and the tokens from there to the end of the sequence
    sequences: Tensor  # int32 [n, 2]: the first tile, and the number of tiles
    last: Tensor  # int64 [n], the last token of every sequence
    last_tile: Tensor  # int64 [n]
    ends: Tensor  # int32 [tiles], the sequence whose last tile it is, else -1


@lru_cache(maxsize=16)
def tile_table(offsets: tuple[int, ...], size: int, device: torch.device) -> TileTable:
    """The tiles of sequences offsets[i] to offsets[i + 1]."""
    bounds = torch.tensor(offsets)
    starts, lengths = bounds[:-1], bounds.diff()
    counts = (lengths + size - 1) // size
    ends = counts.cumsum(0)
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    position = (torch.arange(int(ends[-1])) - (ends - counts)[sequence]) * size
    tiles = torch.stack([starts[sequence] + position, lengths[sequence] - position], dim=1)
    sequences = torch.stack([ends - counts, counts], dim=1)
    ended = torch.full((int(ends[-1]),), -1, dtype=torch.int32)
    ended[ends - 1] = torch.arange(len(counts), dtype=torch.int32)
    return TileTable(
        size=size,
        tiles=tiles.to(device, torch.int32),
        sequences=sequences.to(device, torch.int32),
        last=(bounds[1:] - 1).to(device),
        last_tile=(ends - 1).to(device),
        ends=ended.to(device),
    )


def block_rows(size: int, R: int) -> int:
    """L: the rows of a tile's blocks, a power of two that a dot accepts."""
    return max(16, 1 << (size * R - 1).bit_length())


def pinned(kernel: str, direction: str, sizes: Sizes, x: Tensor) -> dict[str, Any]:
    """Launch options of a kernel's row for these sizes and x's dtype and device.

    A multiply-add is fused only where a kernel says so: the compiler's choice differs from kernel to kernel.
    """
    dtype = "fp32" if x.dtype == torch.float32 else "bf16"
    row = lookup(kernel, direction, dtype, architecture("v", x), N=sizes.N, P=sizes.P, R=sizes.R)
    return row.options | dict(enable_fp_fusion=False)


def check_tile(sizes: Sizes, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Whether the tile kernels take these sizes; raises a ValueError that names what they do not take."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"backend: 'triton' came with tensors on {device.type}, a CUDA device wanted")
    if dtype not in FLOATS:
        raise ValueError(f"v: {dtype} came, one of {', '.join(map(str, FLOATS))} wanted by backend 'triton'")
    for name, value in (("N", sizes.N), ("P", sizes.P)):
        if value not in WIDTHS:
            raise ValueError(f"{name}: {value} came, one of {WIDTHS} wanted by backend 'triton'")
    if sizes.R not in RANKS:
        raise ValueError(f"R: {sizes.R} came, one of {RANKS} wanted by backend 'triton'")
    if 2 * sizes.S != sizes.N and 4 * sizes.S != sizes.N:
        raise ValueError(f"S: {sizes.S} came, N/2 = {sizes.N // 2} or N/4 = {sizes.N // 4} wanted by backend 'triton'")
    if size * sizes.R > ROWS:
        raise ValueError(f"chunk_size: {size} tokens of {sizes.R} ranks came, at most {ROWS} rows wanted")
