"""The data-dependent rotation of queries and keys (SPEC section 3; SPEC is docs/mamba3.md)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Pairing = Literal["interleaved", "half"]
TURN = 2 * math.pi


def pairs(u: Tensor, count: int, pairing: Pairing) -> tuple[Tensor, Tensor]:
    """The first and the second entries of the `count` pairs of u [..., N], as views [..., count].

    interleaved: (2j, 2j + 1); half: (j, j + N/2). The other entries of u belong to no pair.
    """
    if pairing == "interleaved":
        return u[..., 0 : 2 * count : 2], u[..., 1 : 2 * count : 2]
    half = u.shape[-1] // 2
    return u[..., :count], u[..., half : half + count]


class _Rotate(torch.autograd.Function):
    """Turn every pair of u by its angle. The gradient of the angle needs the result alone (SPEC section 7)."""

    @staticmethod
    def forward(ctx, u: Tensor, theta: Tensor, pairing: Pairing) -> Tensor:
        ctx.pairing = pairing
        cos, sin = theta.cos(), theta.sin()
        out = u.clone(memory_format=torch.contiguous_format)
        first, second = pairs(u, theta.shape[-1], pairing)
        out_first, out_second = pairs(out, theta.shape[-1], pairing)
        out_first.mul_(cos).addcmul_(second, sin, value=-1)
        out_second.mul_(cos).addcmul_(first, sin)
        ctx.save_for_backward(out, theta)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        out, theta = ctx.saved_tensors
        d_u = _Rotate.apply(grad, -theta, ctx.pairing) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_u, None, None
        first, second = pairs(out, theta.shape[-1], ctx.pairing)
        d_first, d_second = pairs(grad, theta.shape[-1], ctx.pairing)
        return d_u, (first * d_second - second * d_first).sum_to_size(theta.shape), None


def rotate(u: Tensor, theta: Tensor, pairing: Pairing) -> Tensor:
    """Rotate u [..., N] by theta [..., S], radians; theta broadcasts over u's leading dimensions."""
    return _Rotate.apply(u, theta, pairing)
