"""The scan forward in Triton: what the host does around the kernels of scan_tiles.py, and the autograd function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from . import reference
from .checks import Sizes, read_offsets
from .rotation import Pairing
from .scan_tiles import (
    angle_pass_kernel,
    increment_kernel,
    output_kernel,
    prefix_kernel,
    state_pass_kernel,
    walk_kernel,
)
from .tensors import State, Tokens, Weights
from .tile_table import TileTable, block_rows, check_tile, pinned, tile_table

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
STATE_BLOCK = 32  # rows of P that one program of the pass over the states carries
PREFIX_HEADS = 4  # heads whose sums one program of prefix_kernel carries
PIECE = 4096  # tokens of which reference_gradients keeps intermediate results at once
TOKEN_DIMS = (1, 1, 1, 1, 2, 2, 2, 1)  # where the tokens run, in the order of Tokens
FIRST_STATE = len(Tokens._fields) + len(Weights._fields)  # number of the state's first part among _Scan's tensors
WALKS = 256  # sequences times heads from which on each is walked by one program: about two for every multiprocessor


class Start(NamedTuple):
    """Where sequences begin that do not begin from nothing, fp32."""

    theta: Tensor  # [n, H, S]
    g: Tensor  # [n, H, P, N], the look-ahead state


class Run(NamedTuple):
    """What a forward pass leaves. Tiles lie sequence after sequence; "last" is a sequence's last tile."""

    out: Tensor  # [tokens, H, P] in v's dtype
    scalars: Tensor  # fp32 [tiles, H, 3, L / R]: c, gamma and w of the tiles' tokens
    turn: Tensor  # fp32 [tiles, H, S], the angle that the tiles add
    theta: Tensor  # fp32 [tiles, H, S], the angle before every tile
    g: Tensor | None  # fp32 [tiles, H, P, N], the look-ahead state before every tile; None when it was not to be kept
    g_last: Tensor  # fp32 [n, H, P, N], the same before the last tiles
    keys: Tensor  # [n, H, L, N] in v's dtype, the rotated keys of the last tiles
    theta_end: Tensor  # fp32 [n, H, S], after every sequence
    h_end: Tensor  # fp32 [n, H, P, N]

    def last_keys(self, table: TileTable, R: int) -> Tensor:
        """The rotated key of every sequence's last token, fp32 [n, R, H, N]."""
        row = (table.last - table.tiles[table.last_tile, 0]) * R
        n = torch.arange(len(row), device=row.device)
        ranks = torch.arange(R, device=row.device)
        return self.keys[n[:, None], :, row[:, None] + ranks].float()


def sizes_of(tokens: Tokens) -> Sizes:
    (B, T, H, P), (_, _, R, G, N) = tokens.v.shape, tokens.q.shape
    return Sizes(B, T, H, P, R, G, N, tokens.angles.shape[-1])


def token_rows(x: Tensor) -> Tensor:
    """[B, T, ...] to [B * T, ...] with every token's numbers side by side; a view where it can be."""
    x = x.flatten(0, 1)
    return x if x[0].is_contiguous() else x.contiguous()


def head_scalars(x: Tensor) -> Tensor:
    """[B, H, T] to fp32 [B * T, H]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1]).float().contiguous()


class _Pass(NamedTuple):
    """One forward pass as the kernels read it."""

    sizes: Sizes
    table: TileTable
    rows: tuple[Tensor, ...]  # q, k, v, z [tokens, ...]
    weights: tuple[Tensor | None, ...]
    scalars: Tensor
    turns: Tensor  # fp32 [tokens, H, S], the angles since the tiles' starts
    theta: Tensor
    start: Tensor | None  # fp32 [n, H, P, N]
    shape: dict[str, Any]  # compile-time arguments
    pinned: dict[str, Any]

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(x.stride(0) for x in self.rows)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.scalars.device)


def run_tiles(
    tokens: Tokens, weights: Weights, pairing: Pairing, table: TileTable, start: Start | None, *, keep: bool
) -> Run:
    """The forward pass over the tiles of a table. Tokens as behind the door (q and k with R), under no autograd.

    The tokens of all B rows lie one after the other. With keep the fp32 states before the tiles are kept.
    """
    s, C = sizes_of(tokens), table.size
    dtype, L = tokens.v.dtype, block_rows(table.size, s.R)
    check_tile(s, C, dtype, tokens.v.device)
    scalars, turns, turn = _prefix(s, tokens, table, L)
    n = len(table.sequences)
    theta, theta_end = torch.empty_like(turn), turn.new_empty(n, s.H, s.S)
    theta_start = turn if start is None else start.theta
    angle_pass_kernel[(n, s.H)](
        turn, theta_start, table.sequences, theta, theta_end, H=s.H, S=s.S, START=start is not None, num_warps=1,
        enable_fp_fusion=False,
    )  # fmt: skip
    shape = dict(H=s.H, G=s.G, R=s.R, N=s.N, P=s.P, S=s.S, C=C, L=L, HALF=pairing == "half",
                 MIMO=weights.mimo_x is not None, DT=TYPES[dtype])  # fmt: skip
    rows = tuple(token_rows(x) for x in (tokens.q, tokens.k, tokens.v, tokens.z))
    w = tuple(x if x is None else x.contiguous() for x in weights)
    taken = _Pass(s, table, rows, w, scalars, turns, theta, None if start is None else start.g, shape,
                  pinned("scan", "forward", s, tokens.v))  # fmt: skip
    states = _walk(taken, keep) if n * s.H >= WALKS else _all_at_once(taken, keep)
    out, g, g_last, keys, h_end = states
    return Run(out, scalars, turn, theta, g, g_last, keys, theta_end, h_end)


def _prefix(s: Sizes, tokens: Tokens, table: TileTable, L: int) -> tuple[Tensor, Tensor, Tensor]:
    """scalars, turns and turn of prefix_kernel."""
    adt, dt, trap = (head_scalars(x) for x in (tokens.adt, tokens.dt, tokens.trap))
    angles = tokens.angles.flatten(0, 1)
    angles = angles if angles.stride(-1) == 1 else angles.contiguous()
    tiles = len(table.tiles)
    heads = min(PREFIX_HEADS, 1 << (s.H - 1).bit_length())
    scalars, turns = adt.new_empty(tiles, s.H, 3, L // s.R), adt.new_empty(len(adt), s.H, s.S)
    turn = adt.new_empty(tiles, s.H, s.S)
    prefix_kernel[(tiles, -(-s.H // heads))](
        adt, dt, trap, angles, table.tiles, scalars, turns, turn, angles.stride(1) if angles.shape[1] > 1 else 0,
        angles.stride(0), H=s.H, S=s.S, C=table.size, tokens=L // s.R, HEADS=heads, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return scalars, turns, turn


def _walk(p: _Pass, keep: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """out, g, g_last, keys and h_end by one program for each head of each sequence."""
    s, n = p.sizes, len(p.table.sequences)
    out = p.empty(len(p.rows[2]), s.H, s.P, dtype=p.rows[2].dtype)
    g = p.empty(len(p.table.tiles), s.H, s.P, s.N) if keep else None
    g_last, h_end = (p.empty(n, s.H, s.P, s.N) for _ in range(2))
    keys = p.empty(n, s.H, p.shape["L"], s.N, dtype=out.dtype)
    walk_kernel[(n, s.H)](
        *p.rows, p.scalars, p.turns, *p.weights, p.theta, p.start, p.table.tiles, p.table.sequences, g, g_last, h_end, keys,
        out, *p.strides, **p.shape, NORM=p.weights[-1] is not None, START=p.start is not None, KEEP=keep, **p.pinned,
    )  # fmt: skip
    return out, g, g_last, keys, h_end


def _all_at_once(p: _Pass, keep: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """The same by one program for each head of each tile, and the states passed on between."""
    s, n, tiles = p.sizes, len(p.table.sequences), len(p.table.tiles)
    _, k, v, _ = p.rows
    _, k_bias, _, mimo_x, *_ = p.weights
    g, decay = p.empty(tiles, s.H, s.P, s.N), p.empty(tiles, s.H)
    keys = p.empty(n, s.H, p.shape["L"], s.N, dtype=v.dtype)
    increment_kernel[(tiles, s.H)](
        k, v, p.scalars, p.turns, k_bias, mimo_x, p.theta, p.table.tiles, p.table.ends, g, decay, keys,
        k.stride(0), v.stride(0), **p.shape, **p.pinned,
    )  # fmt: skip
    g_last, h_end = (p.empty(n, s.H, s.P, s.N) for _ in range(2))
    copy = v.dtype != torch.float32
    read = p.empty(tiles, s.H, s.P, s.N, dtype=v.dtype) if copy else g
    block = min(STATE_BLOCK, s.P)
    state_pass_kernel[(n, s.H, s.P // block)](
        g, decay, p.start, p.table.sequences, read, g_last, h_end, H=s.H, P=s.P, N=s.N, BLOCK=block,
        START=p.start is not None, KEEP=keep or not copy, COPY=copy, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    out = p.empty(len(v), s.H, s.P, dtype=v.dtype)
    output_kernel[(tiles, s.H)](
        *p.rows, p.scalars, p.turns, *p.weights, p.theta, read, p.table.tiles, out, *p.strides, **p.shape,
        NORM=p.weights[-1] is not None, **p.pinned,
    )  # fmt: skip
    return out, g if keep else None, g_last, keys, h_end


def entry(tokens: Tokens, weights: Weights, table: TileTable, initial: State) -> Start:
    """The start after a 4-tuple state: g_0 = h + sigma_0 sum_r v[r] (x) k[r], sigma_0 from the sequence's first token."""
    first = table.tiles[table.sequences[:, 0].long(), 0].long()
    dt, trap = head_scalars(tokens.dt)[first], head_scalars(tokens.trap)[first]
    v = initial.v.float().unsqueeze(2)
    v = v if weights.mimo_x is None else v * weights.mimo_x.float()
    v = v * (dt * torch.sigmoid(-trap))[..., None, None]
    g = initial.h.float() + v.mT @ initial.k.float().transpose(1, 2)
    return Start(initial.theta.float().contiguous(), g.contiguous())


class _Scan(torch.autograd.Function):
    """The scan with its gradient. Beside its arguments it saves in fp32, per tile and head, 4 (S + P N) bytes: the angle and the
    state before the tile. At N = 128, P = 64, S = 32 that is 514 bytes per token and head with 64 tokens a tile (SISO) and
    2056 with 16 (MIMO, R = 4), and nothing else per head and token. In bf16 it saves its arguments alone.
    """

    @staticmethod
    def forward(ctx: Any, settings: dict[str, Any], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        tokens, weights, initial = _named(tensors)
        table = _table(tokens, settings["cu_seqlens"], settings["chunk_size"])
        start = None if initial is None else entry(tokens, weights, table, initial)
        keep = any(ctx.needs_input_grad) and _backward_kernels(tokens)
        run = run_tiles(tokens, weights, settings["pairing"], table, start, keep=keep)
        k_end = run.last_keys(table, tokens.q.shape[2])
        if any(ctx.needs_input_grad):
            ctx.settings = settings
            ctx.save_for_backward(*tensors, *((run.theta, run.g) if keep else (None, None)))
        v_end = tokens.v.flatten(0, 1).index_select(0, table.last).float()
        return run.out.view(tokens.v.shape), run.theta_end, run.h_end, k_end, v_end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *tensors, theta, g = ctx.saved_tensors
        tokens, weights, initial = _named(tensors)
        if not _backward_kernels(tokens):
            return (None, *reference_gradients(ctx.settings, tensors, grads))
        from .scan_backward import scan_backward

        d_tokens, d_weights, d_state = scan_backward(
            tokens, weights, **ctx.settings, initial_state=initial, boundary_theta=theta, boundary_g=g, dout=grads[0],
            dstate=State(*grads[1:]),
        )  # fmt: skip
        return (None, *d_tokens, *d_weights, *(d_state or (None,) * 4))


def _backward_kernels(tokens: Tokens) -> bool:
    """Whether a call's gradients come from the backward kernels; else from reference_gradients."""
    return tokens.v.dtype == torch.float32


def reference_gradients(
    settings: dict[str, Any], tensors: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of `_Scan`'s tensors, each in its own dtype, through the formulas in torch in fp32.

    The backward kernels are not used for bf16: compiled by Triton 3.6 for an H200 their products of bf16 operands are wrong
    (bench/README.md). Sequences are taken a few at a time, since the formulas keep about 1 MB of a token at 1.5B sizes.
    """
    wide = [x is not None and _kind(i) == "weight" for i, x in enumerate(tensors)]  # summed over the pieces
    totals = [
        None if x is None else torch.zeros_like(x, dtype=torch.float32 if w else x.dtype)
        for x, w in zip(tensors, wide, strict=True)
    ]
    for piece in _pieces(tensors[2], settings["cu_seqlens"]):
        parts = [None if x is None else piece.cut(i, x) for i, x in enumerate(tensors)]
        outer = [piece.cut(2, grads[0]), *(piece.cut(FIRST_STATE, g) for g in grads[1:])]
        found = _piece_gradients(settings | {"cu_seqlens": piece.cu_seqlens}, parts, outer)
        for i, (total, gradient) in enumerate(zip(totals, found, strict=True)):
            if total is not None and gradient is not None:
                piece.cut(i, total).add_(gradient)
    return tuple(None if x is None or t is None else t.to(x.dtype) for x, t in zip(tensors, totals, strict=True))


class _Piece(NamedTuple):
    """Sequences that gradients are taken of at once."""

    first: int  # of the sequences
    rows: int  # sequences
    tokens: tuple[int, int] | None  # first token and number of tokens where sequences are packed
    cu_seqlens: Tensor | None

    def cut(self, i: int, x: Tensor) -> Tensor:
        """The piece's part of _Scan's tensor number i, a view."""
        if _kind(i) == "weight":
            return x
        if _kind(i) == "state" or self.tokens is None:
            return x.narrow(0, self.first, self.rows)
        return x.narrow(TOKEN_DIMS[i], *self.tokens)


def _kind(i: int) -> str:
    return "token" if i < len(TOKEN_DIMS) else "weight" if i < FIRST_STATE else "state"


def _pieces(v: Tensor | None, cu_seqlens: Tensor | None) -> list[_Piece]:
    """Sequences in order, together at most PIECE tokens; a longer one alone."""
    assert v is not None
    B, T = v.shape[:2]
    bounds = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    pieces, first = [], 0
    for last in range(1, len(bounds)):
        if last == len(bounds) - 1 or bounds[last + 1] - bounds[first] > PIECE:
            start, count = bounds[first], bounds[last] - bounds[first]
            cut = None if cu_seqlens is None else torch.tensor(bounds[first : last + 1]) - start
            pieces.append(_Piece(first, last - first, None if cut is None else (start, count), cut))
            first = last
    return pieces


def _piece_gradients(
    settings: dict[str, Any], tensors: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    leaves = [None if x is None else x.detach().float().requires_grad_() for x in tensors]
    with torch.enable_grad():
        tokens, weights, initial = _named(leaves)
        out, state = reference.scan(tokens, weights, initial_state=initial, return_state=True, **settings)
    given = [x for x in leaves if x is not None]
    outputs = (out, *(state or ()))
    found = iter(torch.autograd.grad(outputs, given, [g.float() for g in grads], allow_unused=True))
    return [None if x is None else next(found) for x in leaves]


def _named(tensors: Any) -> tuple[Tokens, Weights, State | None]:
    return Tokens(*tensors[:8]), Weights(*tensors[8:15]), None if tensors[15] is None else State(*tensors[15:])


def _table(tokens: Tokens, cu_seqlens: Tensor | None, size: int) -> TileTable:
    B, T = tokens.v.shape[:2]
    offsets = tuple(range(0, B * T + 1, T)) if cu_seqlens is None else read_offsets(cu_seqlens, T)
    return tile_table(offsets, size, tokens.v.device)


def scan(
    tokens: Tokens,
    weights: Weights,
    *,
    pairing: Pairing,
    chunk_size: int,
    cu_seqlens: Tensor | None,
    initial_state: State | None,
    return_state: bool,
) -> tuple[Tensor, State | None]:
    """dispatch.mamba3_scan with checked arguments. Raises a ValueError for what the tile kernels do not take."""
    settings = dict(pairing=pairing, chunk_size=chunk_size, cu_seqlens=cu_seqlens)
    out, *state = _Scan.apply(settings, *tokens, *weights, *(initial_state or (None,) * 4))
    return out, State(*state) if return_state else None
