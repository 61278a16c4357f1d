"""The backward pass of the Triton scan (SPEC section 7): nothing of the tokens is stored, every tile is computed again.

Four launches: the output stage of every tile and head (backward_output), the states' gradients over the tiles, in order
(backward_carry), the gradients inside every tile (backward_chunk), and what is summed over later tokens, the angles
(backward_carry). Sums over heads, tiles and tokens are taken in a fixed order, without atomics: two runs give equal bits.

Scratch, in numbers per tile and head: L * P in the values' type (the gradient of y), P * N (of the states) and C * S (of the
angles) in fp32, parts of the weights' gradients in fp32, and dq, dk in fp32 once for every HEADS heads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .backward_carry import angle_kernel, carry_kernel
from .backward_chunk import chunk_kernel
from .backward_output import output_kernel
from .checks import read_offsets
from .rotation import Pairing
from .tensors import State, Tokens, Weights

OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Tiles(NamedTuple):
    """The cut of the sequences into M tiles of at most `size` tokens, sequence by sequence; tokens count over B * T."""

    size: int
    start: Tensor  # int32 [M], the tile's first token
    end: Tensor  # int32 [M], one past its sequence's last token
    first: Tensor  # int32 [M], its sequence's first token
    sequence: Tensor  # int32 [M]
    bounds: Tensor  # int32 [n + 1], the first tile of every sequence, and M


class Sizes(NamedTuple):
    """What the kernels are compiled for, and the lengths that are arguments."""

    tokens: int  # B * T
    T: int
    M: int
    H: int
    G: int
    N: int
    P: int
    R: int
    S: int
    C: int  # tokens in a tile's block, a power of two

    @property
    def common(self) -> dict[str, Any]:
        names = ("T", "H", "G", "N", "P", "R", "S", "C")
        return {name: getattr(self, name) for name in names} | {"NH": max(self.N // 2, 16)}


@lru_cache(maxsize=16)
def tile_table(offsets: tuple[int, ...], size: int, device: torch.device) -> Tiles:
    """The tiles of sequences offsets[i] to offsets[i + 1]."""
    ends = torch.tensor(offsets)
    starts, lengths = ends[:-1], ends.diff()
    chunks = (lengths + size - 1) // size
    bounds = torch.cat([ends.new_zeros(1), chunks.cumsum(0)])
    sequence = torch.repeat_interleave(torch.arange(len(chunks)), chunks)
    position = (torch.arange(len(sequence)) - bounds[sequence]) * size
    columns = (starts[sequence] + position, ends[1:][sequence], starts[sequence], sequence, bounds)
    return Tiles(size, *(x.to(device, torch.int32) for x in columns))


def scan_backward(
    tokens: Tokens,
    weights: Weights,
    *,
    pairing: Pairing,
    chunk_size: int,
    cu_seqlens: Tensor | None,
    initial_state: State | None,
    boundary_theta: Tensor,
    boundary_g: Tensor,
    dout: Tensor,
    dstate: State | None,
) -> tuple[Tokens, Weights, State | None]:
    """Gradients of dispatch.mamba3_scan's arguments, each in its argument's shape and dtype.

    tokens, weights, initial_state: as dispatch.mamba3_scan gives them to a backend (R = 1 where there is no MIMO)
    boundary_theta fp32 [M, H, S], boundary_g fp32 [M, H, P, N]: angle and look-ahead state before every tile, the tiles
    of sequence 0 first
    dout [B, T, H, P]: gradient of the output; dstate: gradients of the final state's four parts, None for none

    Raises ValueError for values of another type than fp32, bf16 and fp16.
    """
    if tokens.v.dtype not in OPERANDS:
        raise ValueError(f"v: {tokens.v.dtype} came, {' or '.join(map(str, OPERANDS))} wanted by the Triton backward")
    B, T = tokens.v.shape[:2]
    offsets = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    tiles = tile_table(offsets, chunk_size, tokens.v.device)
    sizes = _sizes(tokens, tiles)
    given, given_weights, given_state = tokens, weights, initial_state
    tokens, weights = _as_read(tokens), Weights(*(_fp32(x) for x in weights))
    initial, final = (None if x is None else State(*(_fp32(part) for part in x)) for x in (initial_state, dstate))
    theta, g = _fp32(boundary_theta), _fp32(boundary_g)
    half = pairing == "half"

    dy, dz, dg, total, parts = _output_stage(sizes, tiles, tokens, weights, theta, g, dout.contiguous(), half)
    dg_start = _carry(sizes, tiles, dg, dg, None if final is None else final.h, total)
    d, inner, parts_inside = _inside_tiles(sizes, tiles, tokens, weights, theta, g, dg, dy, final, half)
    dsigma_start, dinitial, dmimo_x = _entry(sizes, tiles, tokens, weights, initial, dg_start)
    dangles, ddt, dtrap, dtheta_start = _angles(sizes, tiles, tokens, inner, final, dsigma_start)
    if dinitial is not None:
        dinitial = dinitial._replace(theta=dtheta_start)
    d_weights = _weights(parts | parts_inside, dmimo_x)
    return (
        _like(Tokens(d["q"], d["k"], d["v"], dz, inner["da"], ddt, dtrap, dangles), given),
        _like(d_weights, given_weights),
        None if dinitial is None or given_state is None else _like(dinitial, given_state),
    )


def _sizes(tokens: Tokens, tiles: Tiles) -> Sizes:
    B, T, H, P = tokens.v.shape
    R, G, N = tokens.q.shape[2:]
    C = max(triton.next_power_of_2(tiles.size), 16 // R)
    return Sizes(B * T, T, len(tiles.start), H, G, N, P, R, tokens.angles.shape[-1], C)


def _fp32(x: Any) -> Any:
    return None if x is None else x.detach().float().contiguous()


def _like(tensors: Any, given: Any) -> Any:
    """Every tensor in the shape and dtype of its namesake; None where there is none."""
    pairs = zip(tensors, given, strict=True)
    return type(given)(*(None if x is None or y is None else x.reshape(y.shape).to(y.dtype) for x, y in pairs))


def _as_read(tokens: Tokens) -> Tokens:
    """Tokens as the kernels address them: one stride from token to token, dense inside; the scalars in fp32."""
    scalars = {name: _fp32(getattr(tokens, name)) for name in ("adt", "dt", "trap")}
    return Tokens(*(scalars.get(name, _rows(x.detach())) for name, x in tokens._asdict().items()))


def _rows(x: Tensor) -> Tensor:
    inner, dense = 1, True
    for i in range(x.dim() - 1, 1, -1):
        dense, inner = dense and x.stride(i) == inner, inner * x.shape[i]
    flat = x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1)
    return x if dense and flat else x.contiguous()
