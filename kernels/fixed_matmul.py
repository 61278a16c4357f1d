"""y = x W^T in tiles that are the same for every number of rows, so that a row's bits depend on that row and on W alone.

A library picks another kernel, and so another order of additions, for another number of rows. Here an output entry is always the
sum over K in steps of BK from 0 up, in fp32, in a tile of BM x BN entries whose unused rows are computed and not stored. The
backward pass needs no such promise and uses torch.matmul.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch, lookup
from .operands import architecture, check_product, dense, dtype_name


@triton.jit
def tile_product(
    p_x, p_w, o_x, o_w, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """fp32 [BM, BN]: rows o_x [BM] of x [., K] times rows o_w [BN] of w [., K]. All rows must exist."""
    o_k = tl.arange(0, BK)
    p_x += o_x[:, None].to(tl.int64) * K + o_k[None, :]
    p_w += o_w[None, :].to(tl.int64) * K + o_k[:, None]
    b_sum = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        if K % BK == 0:
            b_x, b_w = tl.load(p_x), tl.load(p_w)
        else:
            b_x = tl.load(p_x, mask=o_k[None, :] < K - k, other=0.0)
            b_w = tl.load(p_w, mask=o_k[:, None] < K - k, other=0.0)
        b_sum = tl.dot(b_x, b_w, b_sum, input_precision="ieee")
        p_x += BK
        p_w += BK
    return b_sum


@triton.jit(do_not_specialize=["M"])
def _matmul_kernel(
    p_x, p_w, p_y, M,
    N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr
):  # fmt: skip
    # GROUP row blocks walk the columns together, so that their weight tiles are read from L2; the order changes no bits.
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    program = tl.program_id(0)
    first = program // (GROUP * tiles_n) * GROUP
    group = tl.minimum(tiles_m - first, GROUP)
    i_m = first + program % (GROUP * tiles_n) % group
    i_n = program % (GROUP * tiles_n) // group
    o_m, o_n = i_m * BM + tl.arange(0, BM), i_n * BN + tl.arange(0, BN)
    b_y = tile_product(p_x, p_w, tl.minimum(o_m, M - 1), tl.minimum(o_n, N - 1), K, BM, BN, BK)
    p_y += o_m[:, None].to(tl.int64) * N + o_n[None, :]
    tl.store(p_y, b_y.to(p_y.dtype.element_ty), mask=(o_m[:, None] < M) & (o_n[None, :] < N))


def _launch(x: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
    (M, K), N = x.shape, weight.shape[0]
    row = lookup("fixed_matmul", "forward", dtype_name("x", x), architecture("x", x), K=K, N=N)
    y = x.new_empty((M, N), dtype=out_dtype)
    if M:
        grid = (triton.cdiv(M, row.blocks["BM"]) * triton.cdiv(N, row.blocks["BN"]),)
        _matmul_kernel[grid](dense(x), dense(weight), y, M, N, K, **row.blocks, **row.options)
    return y


class _FixedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _launch(x, weight, out_dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        g = grads[0].to(x.dtype)
        g_x = g @ weight if ctx.needs_input_grad[0] else None
        g_w = g.t() @ x if ctx.needs_input_grad[1] else None
        return g_x, g_w, None


def fixed_matmul(x: Tensor, weight: Tensor, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """x weight^T; row i has the same bits whatever the number of rows and whatever the others hold. Differentiable.

    x [..., K] and weight [N, K], both fp32 or both bf16, on one device -> [..., N] in out_dtype (fp32 or bf16; None: x's dtype).
    Products and sums are fp32, fp32 operands are not rounded to TF32. Raises ValueError for a wrong argument, by name.
    """
    check_product("x", x, "weight", weight)
    out_dtype = out_dtype or x.dtype
    if out_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"out_dtype: {out_dtype} came, torch.float32 or torch.bfloat16 wanted")
    architecture("x", x)
    y: Tensor = _FixedMatmul.apply(x.reshape(-1, x.shape[-1]), weight, out_dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


def _variants(row: Launch) -> list[Variant]:
    signature = dict.fromkeys(("p_x", "p_w", "p_y"), POINTERS[row.dtype]) | {"M": "i32"}
    constexprs = {**row.shape, **row.blocks}
    return [Variant("fixed_matmul", _matmul_kernel, signature, constexprs, ("M",), row.dtype == "bf16")]


announce("fixed_matmul", _variants)
