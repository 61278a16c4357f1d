"""The backward pass of the Triton scan (SPEC section 7): nothing of the tokens is stored, every tile is computed again.

Eight launches: the output stage of every tile and head, and what it adds to the gradients of the states (backward_output);
these over the tiles, in order (backward_carry); the gradients of values, queries and keys inside every tile (backward_chunk);
the angles' gradients over the tiles, in order, and those of dt, trap and the angle logits (backward_carry). Sums over heads,
tiles and tokens are taken in a fixed order, without atomics: two runs give equal bits.

Scratch per tile and head: L * P numbers of the values' type (the gradient of y); in fp32 P * N (of the states), tokens * S (of
the angles), 2 R (N + P) (of the weights) and 5 * tokens; and 2 L N once for several heads (of q and k).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .backward_carry import angle_kernel, carry_kernel
from .backward_chunk import rows_kernel, values_kernel
from .backward_output import entry_kernel, output_kernel
from .checks import Sizes, read_offsets
from .rotation import Pairing
from .tensors import State, Tokens, Weights
from .tile_table import TileTable, block_rows, check_tile, pinned, tile_table

OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
CARRY_BLOCK = 1024  # numbers of a state that one program of the pass over the tiles carries
ANGLE_BLOCK = 16  # tokens that one program of the angles takes
PROGRAMS = 1024  # of the largest kernel, at least: about eight for every multiprocessor


class Call(NamedTuple):
    """One call as the kernels read it: tokens of all rows one after the other, scalars and weights in fp32."""

    tokens: Tokens  # q, k [tokens, R, G, N], v, z [tokens, H, P], adt, dt, trap [tokens, H], angles [tokens, H or 1, S]
    weights: Weights
    table: TileTable
    owner: Tensor  # int64 [tiles], the sequence of every tile
    theta: Tensor  # [tiles, H, S], the angle before every tile
    g: Tensor  # [tiles, H, P, N], the look-ahead state before every tile
    shape: dict[str, Any]  # compile-time arguments of the tile kernels
    final: State | None  # gradients of the final state
    pinned: dict[str, Any]  # launch options of the tile kernels

    @property
    def units(self) -> tuple[int, int]:
        """Tiles and heads."""
        return self.theta.shape[0], self.theta.shape[1]

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.theta.device)

    def some(self, x: Tensor | None) -> Tensor:
        """x, or a tensor in place of one that the kernel was compiled not to touch."""
        return self.theta if x is None else x


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
    boundary_theta fp32 [tiles, H, S], boundary_g fp32 [tiles, H, P, N]: angle and look-ahead state before every tile, in the
    order of tile_table
    dout [B, T, H, P]: gradient of the output; dstate: gradients of the final state's four parts, None for none

    Raises ValueError for sizes and types that the tile kernels do not take (tile_table.check_tile).
    """
    B, T, H, P = tokens.v.shape
    sizes = Sizes(B, T, H, P, *tokens.q.shape[2:], S=tokens.angles.shape[-1])  # type: ignore[misc]
    check_tile(sizes, chunk_size, tokens.v.dtype, tokens.v.device)
    offsets = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    table = tile_table(offsets, chunk_size, tokens.v.device)
    call = _call(sizes, tokens, weights, table, pairing, boundary_theta, boundary_g, dstate)
    initial = None if initial_state is None else State(*(_fp32(x) for x in initial_state))

    outer, parts = _output_stage(call, dout)
    dg_start = _carry(call, outer.dg, outer.dg, None if call.final is None else call.final.h, outer.total)
    inner, more = _inside_tiles(call, outer)
    with torch.autocast(tokens.v.device.type, enabled=False):
        entry = None if initial is None else _entry(call, initial, dg_start)
    dangles, ddt, dtrap, dtheta = _angles(call, inner, None if entry is None else entry.dsigma)
    scalars = (x.view(B, T, H).transpose(1, 2) for x in (inner.da, ddt, dtrap))
    d_tokens = Tokens(_groups(inner.dq), _groups(inner.dk), inner.dv, outer.dz, *scalars, dangles)  # type: ignore[call-arg]
    d_weights = parts | more
    inside = d_weights["mimo_x"]
    if entry is not None and entry.dmimo_x is not None and inside is not None:
        d_weights["mimo_x"] = inside + entry.dmimo_x
    d_state = None
    if entry is not None and initial_state is not None:
        d_state = _like(State(dtheta, entry.dh, entry.dk, entry.dv), initial_state)
    return _like(d_tokens, tokens), _like(Weights(**d_weights), weights), d_state  # type: ignore[arg-type]


def _fp32(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def _like(tensors: Any, given: Any) -> Any:
    """Every tensor in the shape and dtype of its namesake; None where there is none."""
    pairs = zip(tensors, given, strict=True)
    return type(given)(*(None if x is None or y is None else x.reshape(y.shape).to(y.dtype) for x, y in pairs))


def _rows(x: Tensor) -> Tensor:
    """[B, T, ...] to [B * T, ...], every token's numbers side by side; a view where it can be."""
    x = x.detach().flatten(0, 1)
    return x if x[0].is_contiguous() else x.contiguous()


def _scalars(x: Tensor) -> Tensor:
    """[B, H, T] to fp32 [B * T, H]."""
    return _fp32(x.transpose(1, 2)).flatten(0, 1)


def _groups(parts: Tensor) -> Tensor:
    """Sum the parts [share, ...] of a group's programs, in order."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _call(
    s: Sizes, tokens: Tokens, weights: Weights, table: TileTable, pairing: Pairing, theta: Tensor, g: Tensor,
    dstate: State | None,
) -> Call:  # fmt: skip
    read = Tokens(  # type: ignore[call-arg]
        *(_rows(x) for x in (tokens.q, tokens.k, tokens.v, tokens.z)),
        *(_scalars(x) for x in (tokens.adt, tokens.dt, tokens.trap)),
        _rows(tokens.angles),
    )
    shape = dict(H=s.H, G=s.G, N=s.N, P=s.P, R=s.R, S=s.S, C=table.size)
    shape |= dict(L=block_rows(table.size, s.R), HALF=pairing == "half", MIMO=weights.mimo_x is not None)
    n, tiles = len(table.sequences), len(table.tiles)
    numbers = torch.arange(n, device=table.sequences.device)
    return Call(
        read,
        Weights(*(None if x is None else _fp32(x) for x in weights)),  # type: ignore[arg-type]
        table,
        torch.repeat_interleave(numbers, table.sequences[:, 1].long(), output_size=tiles),
        _fp32(theta),
        _fp32(g),
        shape | dict(DT=OPERANDS[tokens.v.dtype]),
        None if dstate is None else State(*(_fp32(x) for x in dstate)),
        pinned("scan", "backward", s, tokens.v),
    )


class Outer(NamedTuple):
    """What the output stage leaves; T is the tokens of all rows."""

    dy: Tensor  # [tiles, H, L, P] in v's dtype
    dz: Tensor  # [T, H, P]
    dg: Tensor  # fp32 [tiles, H, P, N], what a tile adds to the gradient of the state before it
    total: Tensor  # fp32 [tiles, H], a tile's sum of a
    reader: Tensor  # fp32 [T, H], gradient of c as a reader of the state before the tile


def _output_stage(call: Call, dout: Tensor) -> tuple[Outer, dict[str, Tensor | None]]:
    """Back through gate, norm and read-out; also the gradients of D and the gate's weights."""
    x, w, size = call.tokens, call.weights, call.shape
    (tiles, H), P, R = call.units, size["P"], size["R"]
    dy = call.empty(tiles, H, size["L"], P, dtype=x.v.dtype)
    dz = call.empty(*x.z.shape, dtype=x.z.dtype)
    dg, reader = torch.empty_like(call.g), call.empty(*x.dt.shape)
    total, D_part = call.empty(tiles, H), call.empty(tiles, H)
    z_part, o_part = (call.empty(tiles, H, R, P) if w.mimo_z is not None else None for _ in range(2))
    norm_part = None if w.norm_weight is None else call.empty(tiles, H, P)
    output_kernel[(tiles * H,)](
        x.q, x.k, x.v, x.z, x.adt, x.dt, x.trap, x.angles, w.q_bias, w.k_bias, w.D,
        *(call.some(t) for t in (w.mimo_x, w.mimo_z, w.mimo_o, w.norm_weight)),
        dout.contiguous(), call.theta, call.g, call.table.tiles,
        dy, dz, reader, *(call.some(t) for t in (z_part, o_part, norm_part)),
        *_strides(x, x.q, x.k, x.v, x.z), **size, NORM=norm_part is not None, **call.pinned,
    )  # fmt: skip
    entry_kernel[(tiles * H,)](
        x.q, x.v, x.adt, x.dt, x.trap, x.angles, w.q_bias, call.some(w.mimo_x), call.theta, dy, call.table.tiles,
        dg, total, D_part, *_strides(x, x.q, x.v), **size, **call.pinned,
    )  # fmt: skip
    parts = {"D": D_part, "mimo_z": z_part, "mimo_o": o_part, "norm_weight": norm_part}
    return Outer(dy, dz, dg, total, reader), {
        name: None if part is None else part.sum(0) for name, part in parts.items()
    }


def _strides(x: Tokens, *tensors: Tensor) -> tuple[int, ...]:
    """From token to token of the tensors and of the angles, and from head to head of the angles (0: shared)."""
    head = x.angles.shape[2] if x.angles.shape[1] > 1 else 0
    return (*(t.stride(0) for t in tensors), x.angles.stride(0), head)


def _carry(
    call: Call, added: Tensor, after: Tensor, final: Tensor | None, total: Tensor | None, stride: int | None = None
) -> Tensor:
    """Gradients of what leaves every tile to `after` [tiles, H, ...]; returns those of what enters every sequence."""
    (_, H), n = call.units, len(call.table.sequences)
    width = after[0, 0].numel()
    start = call.empty(n, *after.shape[1:])
    block = min(CARRY_BLOCK, 1 << (width - 1).bit_length())
    carry_kernel[(n * H, -(-width // block))](
        added, stride or width, call.some(total), call.some(final), after, width, start, call.table.sequences, H, width,
        DECAY=total is not None, FINAL=final is not None, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return start


class Inner(NamedTuple):
    """Gradients of the tokens out of the tiles; T is the tokens of all rows."""

    dq: Tensor  # fp32 [share, T, R, G, N], to be summed over the first
    dk: Tensor  # likewise
    dv: Tensor  # [T, H, P]
    da: Tensor  # fp32 [T, H]
    dgamma: Tensor  # fp32 [T, H]
    dsigma: Tensor  # fp32 [T, H], of the next token's dt and trap
    dtheta: Tensor  # fp32 [tiles, H, tokens, S], summed over the tile's later tokens


def _inside_tiles(call: Call, outer: Outer) -> tuple[Inner, dict[str, Tensor | None]]:
    """The gradients inside the tiles, and those of the biases and mimo_x."""
    x, w, size = call.tokens, call.weights, call.shape
    (tiles, H), (T, R, G, N), P = call.units, x.q.shape, size["P"]
    heads = _heads_together(tiles, H, G)
    inner = Inner(
        dq=call.empty(H // G // heads, T, R, G, N),
        dk=call.empty(H // G // heads, T, R, G, N),
        dv=call.empty(T, H, P, dtype=x.v.dtype),
        da=call.empty(T, H),
        dgamma=call.empty(T, H),
        dsigma=call.empty(T, H),
        dtheta=call.empty(tiles, H, size["L"] // R, size["S"]),
    )
    x_part = None if w.mimo_x is None else call.empty(tiles, H, R, P)
    dk_final, dv_final = (None, None) if call.final is None else (call.final.k, call.final.v)
    values_kernel[(tiles * H,)](
        x.q, x.k, x.v, x.adt, x.dt, x.trap, x.angles, w.q_bias, w.k_bias, w.D, call.some(w.mimo_x),
        call.theta, call.g, outer.dg, outer.dy, outer.reader, call.some(dv_final), call.table.tiles, call.owner,
        inner.dv, inner.da, inner.dgamma, inner.dsigma, torch.empty_like(inner.da), call.some(x_part),
        *_strides(x, x.q, x.k, x.v), **size, FINAL=dv_final is not None, **call.pinned,
    )  # fmt: skip
    q_part, k_part = (call.empty(tiles, H, R, N) for _ in range(2))
    queries = (False, x.q, w.q_bias, call.g, inner.dq, q_part, x.k, w.k_bias)
    keys = (True, x.k, w.k_bias, outer.dg, inner.dk, k_part, x.q, w.q_bias)
    for keyed, own, own_bias, state, summed, part, other, other_bias in (queries, keys):
        rows_kernel[(tiles * (H // heads),)](
            own, other, x.v, x.adt, x.dt, x.trap, x.angles, own_bias, other_bias, call.some(w.mimo_x),
            call.theta, state, outer.dy, call.some(dk_final), call.table.tiles, call.owner, summed, inner.dtheta, part,
            *_strides(x, own, other, x.v), T * R * G * N, **size, HEADS=heads, KEYS=keyed,
            FINAL=keyed and dk_final is not None, **call.pinned,
        )  # fmt: skip
    parts = {"q_bias": q_part, "k_bias": k_part, "mimo_x": x_part}
    return inner, {name: None if part is None else part.sum(0) for name, part in parts.items()}


def _heads_together(tiles: int, H: int, G: int) -> int:
    """How many heads of a group one program takes: few parts to sum, as long as the programs fill a GPU."""
    heads = 1
    while heads < 8 and H // G % (2 * heads) == 0 and tiles * H // (2 * heads) >= PROGRAMS:
        heads *= 2
    return heads


class Entry(NamedTuple):
    """Gradients of the initial state but its angle; fp32."""

    dh: Tensor  # [n, H, P, N]
    dk: Tensor  # [n, R, H, N]
    dv: Tensor  # [n, H, P]
    dsigma: Tensor  # [n, H], of the first token's dt and trap
    dmimo_x: Tensor | None  # [H, R, P]


def _entry(call: Call, initial: State, dg: Tensor) -> Entry:
    """Back through g_0 = h + sigma_0 sum_r v[r] (x) k[r]; dg is the gradient of g_0."""
    first = call.table.tiles[call.table.sequences[:, 0].long(), 0].long()
    sigma = (call.tokens.dt[first] * torch.sigmoid(-call.tokens.trap[first]))[..., None, None]  # [n, H, 1, 1]
    mimo_x = call.weights.mimo_x
    v = initial.v.unsqueeze(2) if mimo_x is None else initial.v.unsqueeze(2) * mimo_x  # [n, H, R, P]
    k = initial.k.transpose(1, 2)  # [n, H, R, N]
    read = v @ dg  # [n, H, R, N]
    dv = sigma * (k @ dg.mT)
    dmimo_x = None if mimo_x is None else (dv * initial.v.unsqueeze(2)).sum(0)
    dv = dv.sum(2) if mimo_x is None else (dv * mimo_x).sum(2)
    return Entry(dg, (sigma * read).transpose(1, 2), dv, (read * k).sum((2, 3)), dmimo_x)


def _angles(call: Call, inner: Inner, dsigma: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the angle logits, dt and trap [tokens, H], and the initial angle [n, H, S]."""
    x, (tiles, H) = call.tokens, call.units
    tokens, S = inner.dtheta.shape[2:]
    after = call.empty(tiles, H, S)
    start = _carry(call, inner.dtheta, after, None if call.final is None else call.final.theta, None, tokens * S)
    dangles, ddt, dtrap = call.empty(*x.angles.shape), torch.empty_like(x.dt), torch.empty_like(x.trap)
    shared, block = x.angles.shape[1] == 1, min(ANGLE_BLOCK, tokens)
    angle_kernel[(tiles * (1 if shared else H), tokens // block)](
        x.angles, x.dt, x.trap, inner.dgamma, inner.dsigma, inner.dtheta, after, call.some(dsigma),
        call.table.tiles, call.table.sequences, call.owner, dangles, ddt, dtrap,
        x.angles.stride(0), dangles.stride(0), H, S=S, C=call.table.size, tokens=tokens, BLOCK=block, SHARED=shared,
        INITIAL=dsigma is not None, num_warps=4,
    )  # fmt: skip
    return dangles, ddt, dtrap, start
