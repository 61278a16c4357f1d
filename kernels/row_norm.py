"""RMS norm of rows, alone or after an addition to the residual stream; a row's bits depend on that row and the weight alone.

A program takes BR whole rows, and a row's mean square is one reduction of one shape, whatever the number of rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch, lookup
from .operands import NAMES, architecture, check_like, dense, dtype_name

DTYPES = tuple(NAMES)


@triton.jit(do_not_specialize=["T"])
def _norm_kernel(
    p_x, p_residual, p_weight, p_out, p_sum, p_rstd, eps, T,
    D: tl.constexpr, ADDS: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    o_row = tl.program_id(0) * BR + tl.arange(0, BR)
    o_col = tl.arange(0, BD)
    m_x = (o_row[:, None] < T) & (o_col[None, :] < D)
    o_x = o_row[:, None].to(tl.int64) * D + o_col[None, :]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    if ADDS:
        b_x += tl.load(p_residual + o_x, mask=m_x, other=0.0).to(tl.float32)
        b_x = b_x.to(p_sum.dtype.element_ty)
        tl.store(p_sum + o_x, b_x, mask=m_x)
        b_x = b_x.to(tl.float32)
    b_rstd = tl.rsqrt(tl.sum(b_x * b_x, 1) / D + eps)
    b_weight = tl.load(p_weight + o_col, mask=o_col < D, other=0.0).to(tl.float32)
    b_out = b_x * b_rstd[:, None] * b_weight[None, :]
    tl.store(p_out + o_x, b_out.to(p_out.dtype.element_ty), mask=m_x)
    tl.store(p_rstd + o_row, b_rstd, mask=o_row < T)


@triton.jit(do_not_specialize=["T"])
def _norm_gradient_kernel(
    p_x, p_rstd, p_weight, p_g_out, p_g_sum, p_g_x, p_g_weight, T,
    D: tl.constexpr, ADDS: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """ROWS rows a program, BR at a time; each program leaves its share of the weight's gradient in a row of its own."""
    o_col = tl.arange(0, BD)
    b_weight = tl.load(p_weight + o_col, mask=o_col < D, other=0.0).to(tl.float32)
    b_g_weight = tl.zeros((BD,), tl.float32)
    for i in range(0, ROWS, BR):
        o_row = tl.program_id(0) * ROWS + i + tl.arange(0, BR)
        m_x = (o_row[:, None] < T) & (o_col[None, :] < D)
        o_x = o_row[:, None].to(tl.int64) * D + o_col[None, :]
        b_rstd = tl.load(p_rstd + o_row, mask=o_row < T, other=0.0)[:, None]
        b_unit = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32) * b_rstd
        b_g = tl.load(p_g_out + o_x, mask=m_x, other=0.0).to(tl.float32)
        b_g_weight += tl.sum(b_g * b_unit, 0)
        b_g *= b_weight[None, :]
        b_g_x = b_rstd * (b_g - b_unit * (tl.sum(b_g * b_unit, 1) / D)[:, None])
        if ADDS:
            b_g_x += tl.load(p_g_sum + o_x, mask=m_x, other=0.0).to(tl.float32)
        tl.store(p_g_x + o_x, b_g_x.to(p_g_x.dtype.element_ty), mask=m_x)
    tl.store(p_g_weight + tl.program_id(0).to(tl.int64) * D + o_col, b_g_weight, mask=o_col < D)


def _row(direction: str, x: Tensor) -> Launch:
    return lookup("row_norm", direction, dtype_name("x", x), architecture("x", x), D=x.shape[1])


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, D] -> out [T, D], what was normed [T, D], 1 / rms fp32 [T]."""
    T, D = x.shape
    row = _row("forward", x)
    out, rstd = x.new_empty((T, D), dtype=out_dtype), x.new_empty(T, dtype=torch.float32)
    normed = x if residual is None else torch.empty_like(residual)
    if T:
        _norm_kernel[(triton.cdiv(T, row.blocks["BR"]),)](
            x, x if residual is None else residual, weight, out, normed, rstd, eps, T,
            D, residual is not None, BD=triton.next_power_of_2(D), **row.blocks, **row.options,
        )  # fmt: skip
    return out, normed, rstd


def _gradients(
    x: Tensor, rstd: Tensor, weight: Tensor, g_out: Tensor, g_sum: Tensor | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of what was normed, in its dtype, and of the weight."""
    T, D = x.shape
    g_x = torch.empty_like(x)
    row = _row("backward", x)
    programs = triton.cdiv(T, row.blocks["ROWS"])
    g_weight = x.new_empty((programs, D), dtype=torch.float32)
    if T:
        _norm_gradient_kernel[(programs,)](
            x, rstd, weight, g_out, g_out if g_sum is None else g_sum, g_x, g_weight, T,
            D, g_sum is not None, BD=triton.next_power_of_2(D), **row.blocks, **row.options,
        )  # fmt: skip
    return g_x, g_weight.sum(0).to(weight.dtype)


class _RowNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
        out, normed, rstd = _launch(x, None, weight, eps, out_dtype)
        ctx.save_for_backward(normed, rstd, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        x, rstd, weight = ctx.saved_tensors
        return *_gradients(x, rstd, weight, dense(grads[0]), None), None, None


class _AddRowNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        out, total, rstd = _launch(x, residual, weight, eps, out_dtype)
        ctx.save_for_backward(total, rstd, weight)
        ctx.x_dtype = x.dtype
        return out, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        total, rstd, weight = ctx.saved_tensors
        g, g_weight = _gradients(total, rstd, weight, dense(grads[0]), dense(grads[1]))
        return g.to(ctx.x_dtype), g, g_weight, None, None


def _check(x: Tensor, weight: Tensor, out_dtype: torch.dtype | None) -> torch.dtype:
    dtype_name("x", x)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"x: shape {list(x.shape)} came, [..., D] with D >= 1 wanted")
    check_like("weight", weight, (x.shape[-1],), x, DTYPES)
    out_dtype = out_dtype or weight.dtype
    if out_dtype not in DTYPES:
        raise ValueError(f"out_dtype: {out_dtype} came, torch.float32 or torch.bfloat16 wanted")
    architecture("x", x)
    return out_dtype


def row_norm(x: Tensor, weight: Tensor, eps: float, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """x rsqrt(mean x^2 + eps) weight over the last axis, computed in fp32; differentiable.

    x [..., D] and weight [D], fp32 or bf16 -> [..., D] in out_dtype (None: weight's). Raises ValueError, by name.
    """
    out_dtype = _check(x, weight, out_dtype)
    out: Tensor = _RowNorm.apply(dense(x.reshape(-1, x.shape[-1])), dense(weight), eps, out_dtype)
    return out.view(x.shape)


def add_row_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The residual stream goes on by x, and is normed for the next layer: (norm(residual + x), residual + x).

    x and residual [..., D], weight [D], each fp32 or bf16; the sum has residual's dtype and is what is normed, as in `row_norm`.
    Nothing is overwritten. Differentiable in all three and through both results. Raises ValueError, by name.
    """
    out_dtype = _check(x, weight, out_dtype)
    check_like("residual", residual, tuple(x.shape), x, DTYPES)
    flat = dense(x.reshape(-1, x.shape[-1])), dense(residual.reshape(-1, x.shape[-1]))
    out, total = _AddRowNorm.apply(*flat, dense(weight), eps, out_dtype)
    return out.view(x.shape), total.view(x.shape)


def _variants(row: Launch) -> list[Variant]:
    """fp32 weights and residual stream, x and results in the row's dtype."""
    types = dict.fromkeys(("p_residual", "p_weight", "p_sum", "p_rstd", "p_g_sum", "p_g_weight"), "*fp32")
    types |= dict.fromkeys(("p_x", "p_out", "p_g_out", "p_g_x"), POINTERS[row.dtype]) | {"eps": "fp32", "T": "i32"}
    function, name = (_norm_kernel, "norm") if row.direction == "forward" else (_norm_gradient_kernel, "norm gradient")
    sizes = {**row.shape, **row.blocks, "BD": triton.next_power_of_2(row.shape["D"])}
    return [
        Variant(label, function, types, {**sizes, "ADDS": adds}, ("T",))
        for label, adds in ((f"row_{name}", False), (f"add_row_{name}", True))
    ]


announce("row_norm", _variants)
