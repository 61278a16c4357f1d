"""From in_proj's rows to the scan: the split, the norms and the activations of section 3, with the bits that the decode has.

The decode does the same with the functions of chunk_tile.py. The result is what the scan reads and what the replay's ring keeps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from .checks import Sizes
from .chunk_tile import QUERIES, row_scale, token_scalars
from .rotation import Pairing
from .scan_forward import scan
from .tensors import State, Tokens, Weights
from .tile_table import check_tile, pinned

ACTIVATIONS = ("softplus", "heavy_tail")
SCALAR_BLOCK = 256


class Layer(NamedTuple):
    """A layer between its two projections: its parameters and what is fixed about it."""

    weights: Weights  # as behind the door: biases [H, R, N]
    b_norm: Tensor  # [N], weight of B's norm
    c_norm: Tensor  # [N]
    dt_bias: Tensor  # fp32 [H]
    groups: int
    headdim: int
    angles: int  # S
    pairing: Pairing
    chunk_size: int
    a_activation: str = "heavy_tail"
    a_floor: float = 1e-4
    norm_eps: float = 1e-5

    @property
    def sizes(self) -> Sizes:
        H, R, N = self.weights.q_bias.shape
        return Sizes(B=1, T=None, H=H, P=self.headdim, R=R, G=self.groups, N=N, S=self.angles)

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of z, x, B, C, dt, A, trap and the angles in a row of in_proj."""
        s = self.sizes
        return (s.H * s.P, s.H * s.P, s.R * s.G * s.N, s.R * s.G * s.N, s.H, s.H, s.H, s.S)


def check_rows(layer: Layer, projection: Tensor, dims: int) -> Sizes:
    """Whether the tile kernels take these rows of in_proj; raises a ValueError that names the argument."""
    s, width = layer.sizes, sum(layer.widths)
    if layer.a_activation not in ACTIVATIONS:
        raise ValueError(f"a_activation: {layer.a_activation!r} came, one of {', '.join(ACTIVATIONS)} wanted")
    if projection.dim() != dims or projection.shape[-1] != width or 0 in projection.shape:
        lead = "B, T" if dims == 3 else "n"
        raise ValueError(f"projection: shape {list(projection.shape)} came, [{lead}, {width}] wanted")
    if projection.stride(-1) != 1:
        raise ValueError(f"projection: stride {projection.stride(-1)} of the last dimension came, 1 wanted")
    given = layer.weights._asdict() | dict(b_norm=layer.b_norm, c_norm=layer.c_norm, dt_bias=layer.dt_bias)
    for name, x in given.items():
        if x is not None and x.device != projection.device:
            raise ValueError(f"{name}: on {x.device}, wanted beside projection on {projection.device}")
    check_tile(s, layer.chunk_size, projection.dtype, projection.device)
    return s


@triton.jit
def norm_kernel(
    p_b, p_c, p_b_norm, p_c_norm, p_k, p_q, s_row,
    R: tl.constexpr, G: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """B and C [tokens, R, G, N] normed over N, into the dtype of p_k and p_q. Grid (tokens, G).

    The block is one token's ranks, in the rows of a step's queries, so that the sums over N have one order.
    """
    i_token, i_g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, rank = tl.arange(0, N), tl.arange(0, QUERIES)
    o, m = ((rank * G + i_g) * N)[:, None] + n[None, :], (rank < R)[:, None]
    b = tl.load(p_b + i_token * s_row + o, mask=m, other=0.0).to(tl.float32)
    b = b * row_scale(b, EPS)[:, None] * tl.load(p_b_norm + n).to(tl.float32)[None, :]
    tl.store(p_k + i_token * R * G * N + o, b.to(p_k.dtype.element_ty), mask=m)
    c = tl.load(p_c + i_token * s_row + o, mask=m, other=0.0).to(tl.float32)
    c = c * row_scale(c, EPS)[:, None] * tl.load(p_c_norm + n).to(tl.float32)[None, :]
    tl.store(p_q + i_token * R * G * N + o, c.to(p_q.dtype.element_ty), mask=m)


@triton.jit
def activation_kernel(
    p_dt_logit, p_a_logit, p_trap_logit, p_dt_bias, p_adt, p_dt, p_trap, count, s_row,
    H: tl.constexpr, HEAVY: tl.constexpr, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """adt, dt and trap fp32 [tokens, H]. Grid (count / BLOCK), count = tokens H."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < count
    o = i // H * s_row + i % H
    dt, a = tl.load(p_dt_logit + o, mask=m, other=0.0), tl.load(p_a_logit + o, mask=m, other=0.0)
    trap, bias = tl.load(p_trap_logit + o, mask=m, other=0.0), tl.load(p_dt_bias + i % H, mask=m, other=0.0)
    adt, dt, trap = token_scalars(dt, a, trap, bias.to(tl.float32), HEAVY, FLOOR)
    tl.store(p_adt + i, adt, mask=m)
    tl.store(p_dt + i, dt, mask=m)
    tl.store(p_trap + i, trap, mask=m)


class _Prepare(torch.autograd.Function):
    """q, k, adt, dt, trap of in_proj's rows. The gradient differentiates the same formulas in torch: it needs no equal bits."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, rows: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.layer = layer
        ctx.save_for_backward(rows, *parameters)
        return _prepare(layer, rows, *parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = _formulas(ctx.layer, *inputs)
        return (None, *torch.autograd.grad(outputs, inputs, grads))


def _prepare(layer: Layer, rows: Tensor, b_norm: Tensor, c_norm: Tensor, dt_bias: Tensor) -> tuple[Tensor, ...]:
    """rows [tokens, width] to q, k [tokens, R, G, N] in the rows' dtype and adt, dt, trap fp32 [tokens, H]."""
    s = layer.sizes
    _, _, b, c, dt, a, trap, _ = rows.split(layer.widths, dim=-1)
    tokens, stride = len(rows), rows.stride(0)
    q, k = (rows.new_empty(tokens, s.R, s.G, s.N) for _ in range(2))
    norm_kernel[(tokens, s.G)](
        b, c, b_norm, c_norm, k, q, stride, R=s.R, G=s.G, N=s.N, EPS=layer.norm_eps, **pinned("replay", "step", s, rows)
    )
    scalars = [torch.empty(tokens, s.H, dtype=torch.float32, device=rows.device) for _ in range(3)]
    activation_kernel[(triton.cdiv(tokens * s.H, SCALAR_BLOCK),)](
        dt, a, trap, dt_bias, *scalars, tokens * s.H, stride, H=s.H, HEAVY=layer.a_activation == "heavy_tail",
        FLOOR=layer.a_floor, BLOCK=SCALAR_BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return q, k, *scalars


def _formulas(layer: Layer, rows: Tensor, b_norm: Tensor, c_norm: Tensor, dt_bias: Tensor) -> tuple[Tensor, ...]:
    """What _prepare computes, in torch."""
    s = layer.sizes
    _, _, b, c, dt, a, trap, _ = rows.split(layer.widths, dim=-1)
    q, k = (
        functional.rms_norm(x.float().reshape(-1, s.R, s.G, s.N), (s.N,), weight.float(), layer.norm_eps).to(rows.dtype)
        for x, weight in ((c, c_norm), (b, b_norm))
    )
    a = a.float()
    heavy = layer.a_activation == "heavy_tail"
    strength = torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp(max=0))) if heavy else functional.softplus(a)
    dt = functional.softplus(dt.float() + dt_bias)
    return q, k, -strength.clamp(min=layer.a_floor) * dt, dt, trap.float()


def prepare(layer: Layer, projection: Tensor) -> Tokens:
    """projection [B, T, width] to the scan's tokens; v, z and angles are views of it. Differentiable."""
    s, (B, T, _) = layer.sizes, projection.shape
    rows = projection.reshape(B * T, -1)
    q, k, adt, dt, trap = _Prepare.apply(layer, rows, layer.b_norm, layer.c_norm, layer.dt_bias)
    z, x, *_, angle = projection.split(layer.widths, dim=-1)
    q, k = (u.view(B, T, s.R, s.G, s.N) for u in (q, k))
    adt, dt, trap = (u.view(B, T, s.H).transpose(1, 2) for u in (adt, dt, trap))
    return Tokens(q, k, x.unflatten(-1, (s.H, s.P)), z.unflatten(-1, (s.H, s.P)), adt, dt, trap, angle.unsqueeze(2))


def scan_from_projection(
    projection: Tensor,
    layer: Layer,
    *,
    cu_seqlens: Tensor | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
) -> tuple[Tensor, State | None]:
    """in_proj's rows [B, T, width] to (what out_proj takes [B, T, H, P], final state or None); differentiable.

    The Triton path of a layer in training: a row has the bits that mamba3_decode gives it. cu_seqlens and the states as in
    dispatch.mamba3_scan. Raises a ValueError that names what the kernels do not take.
    """
    check_rows(layer, projection, 3)
    return scan(
        prepare(layer, projection), layer.weights, pairing=layer.pairing, chunk_size=layer.chunk_size, cu_seqlens=cu_seqlens,
        initial_state=initial_state, return_state=return_state,
    )  # fmt: skip
