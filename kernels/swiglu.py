"""value * silu(gate) of rows that hold the value in their first half and the gate in their second."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch, lookup
from .operands import architecture, dense, dtype_name


@triton.jit
def _swiglu_kernel(p_x, p_out, F: tl.constexpr, BF: tl.constexpr):
    i_row = tl.program_id(0).to(tl.int64)
    o_col = tl.program_id(1) * BF + tl.arange(0, BF)
    m_col = o_col < F
    b_value = tl.load(p_x + i_row * (2 * F) + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_gate = tl.load(p_x + i_row * (2 * F) + F + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_out = b_value * (b_gate / (1.0 + tl.exp(-b_gate)))
    tl.store(p_out + i_row * F + o_col, b_out.to(p_out.dtype.element_ty), mask=m_col)


@triton.jit
def _swiglu_gradient_kernel(p_x, p_g_out, p_g_x, F: tl.constexpr, BF: tl.constexpr):
    i_row = tl.program_id(0).to(tl.int64)
    o_col = tl.program_id(1) * BF + tl.arange(0, BF)
    m_col = o_col < F
    b_value = tl.load(p_x + i_row * (2 * F) + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_gate = tl.load(p_x + i_row * (2 * F) + F + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_g = tl.load(p_g_out + i_row * F + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_sigmoid = 1.0 / (1.0 + tl.exp(-b_gate))
    b_g_gate = b_g * b_value * b_sigmoid * (1.0 + b_gate * (1.0 - b_sigmoid))
    p_g_x += i_row * (2 * F) + o_col
    tl.store(p_g_x, (b_g * b_gate * b_sigmoid).to(p_g_x.dtype.element_ty), mask=m_col)
    tl.store(p_g_x + F, b_g_gate.to(p_g_x.dtype.element_ty), mask=m_col)


def _row(direction: str, x: Tensor) -> Launch:
    return lookup("swiglu", direction, dtype_name("x", x), architecture("x", x), F=x.shape[1] // 2)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        T, F = x.shape[0], x.shape[1] // 2
        out, row = x.new_empty((T, F)), _row("forward", x)
        if T:
            _swiglu_kernel[(T, triton.cdiv(F, row.blocks["BF"]))](x, out, F, **row.blocks, **row.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        T, F = x.shape[0], x.shape[1] // 2
        g_x, row = torch.empty_like(x), _row("backward", x)
        if T:
            grid = (T, triton.cdiv(F, row.blocks["BF"]))
            _swiglu_gradient_kernel[grid](x, dense(grads[0]), g_x, F, **row.blocks, **row.options)
        return g_x


def swiglu(x: Tensor) -> Tensor:
    """x [..., 2F], fp32 or bf16: value in the first half, gate in the second -> value * silu(gate) [..., F] in x's dtype.

    Computed in fp32 and rounded once; differentiable. Raises ValueError for a wrong x.
    """
    dtype_name("x", x)
    if x.ndim < 1 or x.shape[-1] == 0 or x.shape[-1] % 2:
        raise ValueError(f"x: shape {list(x.shape)} came, [..., 2F] with F >= 1 wanted")
    architecture("x", x)
    out: Tensor = _Swiglu.apply(dense(x.reshape(-1, x.shape[-1])))
    return out.view(*x.shape[:-1], x.shape[-1] // 2)


def _variants(row: Launch) -> list[Variant]:
    types = dict.fromkeys(("p_x", "p_out", "p_g_out", "p_g_x"), POINTERS[row.dtype])
    function, label = (
        (_swiglu_kernel, "swiglu") if row.direction == "forward" else (_swiglu_gradient_kernel, "swiglu gradient")
    )
    return [Variant(label, function, types, {**row.shape, **row.blocks})]


announce("swiglu", _variants)
