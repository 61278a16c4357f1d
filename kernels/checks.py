"""What the door accepts. A wrong argument is a ValueError of one line that names it, what came and what was wanted.

Only shapes, dtypes and devices are looked at, which costs no synchronisation on a GPU. The one exception are the values
of cu_seqlens, and only where they already are in host memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

from .rotation import Pairing
from .tensors import State, Tokens, Weights

MIMO = ("mimo_x", "mimo_z", "mimo_o")


@dataclass(frozen=True)
class Sizes:
    """The sizes of one call; T is None for a step."""

    B: int
    T: int | None
    H: int
    P: int
    R: int
    G: int
    N: int
    S: int


def compute_dtype(x: Tensor) -> torch.dtype:
    """fp64 is computed in fp64, everything else in fp32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_tokens(tokens: Tokens, weights: Weights, pairing: str, *, steps: bool) -> Sizes:
    """Check everything but the state and cu_seqlens; returns the sizes, as q, v and angles have them."""
    if pairing not in get_args(Pairing):
        raise ValueError(f"pairing: {pairing!r} came, one of {', '.join(get_args(Pairing))} wanted")
    tensors = tokens._asdict() | weights._asdict()
    given = {name: x for name, x in tensors.items() if x is not None}
    missing = [name for name in MIMO if name not in given]
    if 0 < len(missing) < len(MIMO):
        raise ValueError(
            f"{missing[0]}: None came, a tensor wanted; {', '.join(MIMO)} are given together or not at all"
        )
    _check_kind(given, given["v"])
    sizes = _sizes(given, steps=steps)
    for name, (dims, shapes) in _shapes(sizes, mimo=not missing).items():
        if name in given and tuple(given[name].shape) not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{name}: shape {list(given[name].shape)} came, [{dims}] = {wanted} wanted")
    return sizes


def check_state(name: str, state: Sequence[Tensor], sizes: Sizes, rows: int, v: Tensor) -> State:
    """A state of `rows` sequences for a call with value tensor v."""
    if not isinstance(state, tuple) or len(state) != len(State._fields):
        raise ValueError(f"{name}: {type(state).__name__} came, a tuple (theta, h, k, v) wanted")
    parts = {f"{name}.{field}": x for field, x in zip(State._fields, state, strict=True)}
    _check_kind(parts, v)
    shapes = (
        ("n, H, S", (rows, sizes.H, sizes.S)),
        ("n, H, P, N", (rows, sizes.H, sizes.P, sizes.N)),
        ("n, R, H, N", (rows, sizes.R, sizes.H, sizes.N)),
        ("n, H, P", (rows, sizes.H, sizes.P)),
    )
    for (part, x), (dims, shape) in zip(parts.items(), shapes, strict=True):
        if tuple(x.shape) != shape:
            raise ValueError(f"{part}: shape {list(x.shape)} came, [{dims}] = {list(shape)} wanted")
    return State(*state)


def check_inplace(state: State, v: Tensor) -> None:
    """Whether the step may overwrite a checked state."""
    if torch.is_grad_enabled():
        raise ValueError("inplace: True came while gradients are recorded; wanted only under torch.no_grad()")
    for name, x in (("theta", state.theta), ("h", state.h)):
        if x.dtype != compute_dtype(v):
            raise ValueError(f"state.{name}: {x.dtype} came, {compute_dtype(v)} wanted to be overwritten in place")


def check_chunk_size(chunk_size: int | None) -> None:
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size: {chunk_size!r} came, None or a number of tokens of at least 1 wanted")


def check_cu_seqlens(cu_seqlens: Tensor, sizes: Sizes, v: Tensor) -> int:
    """Form of cu_seqlens, and its values when it is in host memory. Returns the number of sequences."""
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        kind = getattr(cu_seqlens, "dtype", type(cu_seqlens).__name__)
        raise ValueError(f"cu_seqlens: {kind} came, an int32 or int64 tensor wanted")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
        raise ValueError(f"cu_seqlens: shape {list(cu_seqlens.shape)} came, [n + 1] with n >= 1 wanted")
    if cu_seqlens.device.type != "cpu" and cu_seqlens.device != v.device:
        raise ValueError(f"cu_seqlens: on {cu_seqlens.device}, wanted on cpu or beside v on {v.device}")
    if sizes.B != 1:
        raise ValueError(f"cu_seqlens: given with B = {sizes.B}, wanted with B = 1 (sequences packed along T)")
    if cu_seqlens.device.type == "cpu":
        read_offsets(cu_seqlens, sizes.T)
    return len(cu_seqlens) - 1


def read_offsets(cu_seqlens: Tensor, T: int | None) -> tuple[int, ...]:
    """The values of cu_seqlens, checked. Waits for the device when they are on one."""
    offsets = tuple(cu_seqlens.tolist())
    if offsets[0] != 0:
        raise ValueError(f"cu_seqlens: starts with {offsets[0]}, wanted 0")
    for i, (start, end) in enumerate(pairwise(offsets)):
        if end <= start:
            what = "has no tokens" if end == start else "ends before it starts"
            raise ValueError(f"cu_seqlens: sequence {i} {what} ({start} to {end}), ascending offsets wanted")
    if offsets[-1] != T:
        raise ValueError(f"cu_seqlens: ends with {offsets[-1]}, wanted T = {T}")
    return offsets


def _check_kind(tensors: Mapping[str, Tensor], v: Tensor) -> None:
    """Floating point, on v's device, and fp64 throughout or not at all."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: {type(x).__name__} came, a tensor wanted")
        if not x.is_floating_point():
            raise ValueError(f"{name}: {x.dtype} came, a floating point type wanted")
        if (x.dtype == torch.float64) != (v.dtype == torch.float64):
            raise ValueError(f"{name}: {x.dtype} came with v in {v.dtype}, float64 throughout or nowhere wanted")
        if x.device != v.device:
            raise ValueError(f"{name}: on {x.device}, wanted beside v on {v.device}")


def _sizes(tensors: Mapping[str, Tensor], *, steps: bool) -> Sizes:
    lead = "B" if steps else "B, T"
    q, v, angles = tensors["q"], tensors["v"], tensors["angles"]
    q_dims = f"{lead}, R, G, N" if "mimo_x" in tensors else f"{lead}, G, N"
    for name, x, dims in (("v", v, f"{lead}, H, P"), ("q", q, q_dims), ("angles", angles, f"{lead}, H or 1, S")):
        if x.dim() != dims.count(",") + 1 or 0 in x.shape:
            raise ValueError(f"{name}: shape {list(x.shape)} came, [{dims}] without empty dimensions wanted")
    sizes = Sizes(
        B=v.shape[0],
        T=None if steps else v.shape[1],
        H=v.shape[-2],
        P=v.shape[-1],
        R=q.shape[-3] if "mimo_x" in tensors else 1,
        G=q.shape[-2],
        N=q.shape[-1],
        S=angles.shape[-1],
    )
    if sizes.H % sizes.G:
        raise ValueError(f"q: {sizes.G} groups came, a divisor of the {sizes.H} heads of v wanted")
    if sizes.N % 2:
        raise ValueError(f"q: N = {sizes.N} came, an even number wanted")
    if 2 * sizes.S > sizes.N:
        raise ValueError(f"angles: S = {sizes.S} came, at most N/2 = {sizes.N // 2} wanted")
    return sizes


@lru_cache(maxsize=64)
def _shapes(s: Sizes, *, mimo: bool) -> dict[str, tuple[str, tuple[tuple[int, ...], ...]]]:
    """Names of the dimensions and allowed shapes of every tensor argument."""
    lead: tuple[int, ...] = (s.B,) if s.T is None else (s.B, s.T)
    b, end = ("B", "") if s.T is None else ("B, T", ", T")
    row = ((*lead, s.R, s.G, s.N) if mimo else (*lead, s.G, s.N),)
    row_dims = f"{b}, R, G, N" if mimo else f"{b}, G, N"
    scalar = ((s.B, s.H, *lead[1:]),)
    bias = ((s.H, s.R, s.N),) if mimo else ((s.H, s.N), (s.H, 1, s.N))
    bias_dims = "H, R, N" if mimo else "H, N"
    shapes = {
        "q": (row_dims, row),
        "k": (row_dims, row),
        "v": (f"{b}, H, P", ((*lead, s.H, s.P),)),
        "z": (f"{b}, H, P", ((*lead, s.H, s.P),)),
        "adt": (f"B, H{end}", scalar),
        "dt": (f"B, H{end}", scalar),
        "trap": (f"B, H{end}", scalar),
        "angles": (f"{b}, H or 1, S", ((*lead, s.H, s.S), (*lead, 1, s.S))),
        "q_bias": (bias_dims, bias),
        "k_bias": (bias_dims, bias),
        "D": ("H", ((s.H,),)),
        "norm_weight": ("H * P", ((s.H * s.P,),)),
    }
    return shapes | dict.fromkeys(MIMO, ("H, R, P", ((s.H, s.R, s.P),)))
