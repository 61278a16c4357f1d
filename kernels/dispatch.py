"""The only door to the Mamba-3 kernels: checks the arguments, picks a backend.

Shapes: B batch, T tokens, H heads, G groups of query and key rows (head h reads group h G // H), N state width, P head
width, R ranks, S angles. Without mimo_x, mimo_z and mimo_o the R dimension is left out of q, k and the biases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks, reference
from .checks import Sizes
from .linear_logprob import linear_logprob_reference
from .rotation import Pairing
from .tensors import State, Tokens, Weights


class Backend(NamedTuple):
    """One implementation; both functions take the arguments of reference.scan and reference.step."""

    scan: Callable[..., tuple[Tensor, State | None]]
    step: Callable[..., tuple[Tensor, State]]


def _triton_scan(*args: Any, **settings: Any) -> tuple[Tensor, State | None]:
    from .scan_forward import scan  # triton is loaded where it is used

    return scan(*args, **settings)


def _triton_step(*args: Any, **settings: Any) -> tuple[Tensor, State]:
    from .recurrent import step

    return step(*args, **settings)


BACKENDS = {"reference": Backend(reference.scan, reference.step), "triton": Backend(_triton_scan, _triton_step)}


def choose(name: str, sizes: Sizes, chunk_size: int, dtype: torch.dtype, device: torch.device) -> str:
    """The backend of that name. "auto": triton for tensors on a CUDA device in sizes that its tiles take, else reference.

    Raises ValueError for a name that is none.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise ValueError(
                f"backend: {name!r} came, which is not available; one of auto, {', '.join(BACKENDS)} wanted"
            )
        return name
    if device.type != "cuda":
        return "reference"
    from .tile_table import check_tile  # only here: Triton exists on Linux alone

    try:
        check_tile(sizes, chunk_size, dtype, device)
    except ValueError:
        return "reference"
    return "triton"


def mamba3_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    z: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    angles: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    D: Tensor,
    *,
    mimo_x: Tensor | None = None,
    mimo_z: Tensor | None = None,
    mimo_o: Tensor | None = None,
    norm_weight: Tensor | None = None,
    pairing: Pairing,
    chunk_size: int | None = None,
    cu_seqlens: Tensor | None = None,
    initial_state: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Any:
    """Whole sequences through the exponential-trapezoidal recurrence and the output stage; differentiable.

    q, k          [B, T, G, N], MIMO [B, T, R, G, N]: C and B after their norm, before bias and rotation
    v, z          [B, T, H, P]: values and gate logits
    adt, dt, trap [B, H, T]: A dt (at most 0), dt (after softplus), trapezoid logit
    angles        [B, T, H, S], or [B, T, 1, S] shared by the heads: logits, before tanh
    q_bias, k_bias [H, N], MIMO [H, R, N];  D [H];  mimo_x, mimo_z, mimo_o [H, R, P], all three or none
    norm_weight   [H * P]: RMS norm per head and rank before the gate; None for none
    pairing       "interleaved" turns entries (2j, 2j + 1), as SISO checkpoints; "half" (j, j + N/2), as MIMO ones
    chunk_size    tokens per tile, a matter of speed alone; None: max(64 // R, 1)
    cu_seqlens    int32 or int64 [n + 1], with B = 1: n sequences packed along T, none empty. In host memory its values
                  are checked here; on a device only its form is, so that the call need not wait for the device
    initial_state (theta [n, H, S], h [n, H, P, N], k [n, R, H, N], v [n, H, P]), one row per sequence (n = B without
                  cu_seqlens): the state that an earlier call or a step returned

    Returns out [B, T, H, P] in v's dtype, before the output projection; with return_state (out, State), the state after
    every sequence's last token in the compute dtype. That is fp64 for fp64 inputs and fp32 for all other floating
    types, also under autocast. Raises ValueError for a wrong argument, by name.
    """
    tokens = Tokens(q, k, v, z, adt, dt, trap, angles)
    weights = Weights(q_bias, k_bias, D, mimo_x, mimo_z, mimo_o, norm_weight)
    sizes = checks.check_tokens(tokens, weights, pairing, steps=False)
    checks.check_chunk_size(chunk_size)
    chunk_size = max(64 // sizes.R, 1) if chunk_size is None else chunk_size
    chosen = BACKENDS[choose(backend, sizes, chunk_size, v.dtype, v.device)]
    rows = sizes.B if cu_seqlens is None else checks.check_cu_seqlens(cu_seqlens, sizes, v)
    if initial_state is not None:
        initial_state = checks.check_state("initial_state", initial_state, sizes, rows, v)
    if mimo_x is None:
        tokens, weights = _single_rank(tokens, weights, 2)
    out, state = chosen.scan(
        tokens, weights, pairing=pairing, chunk_size=chunk_size, cu_seqlens=cu_seqlens, initial_state=initial_state,
        return_state=return_state,
    )  # fmt: skip
    return (out, state) if return_state else out


def mamba3_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    z: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    angles: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    D: Tensor,
    *,
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    mimo_x: Tensor | None = None,
    mimo_z: Tensor | None = None,
    mimo_o: Tensor | None = None,
    norm_weight: Tensor | None = None,
    pairing: Pairing,
    inplace: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """One token of B sequences: mamba3_scan's arguments without the time dimension, and the state before the token.

    q, k [B, G, N], MIMO [B, R, G, N];  v, z [B, H, P];  adt, dt, trap [B, H];  angles [B, H, S] or [B, 1, S].

    Returns (out [B, H, P] in v's dtype, the State after the token in the compute dtype). With inplace the tensors of
    `state` are overwritten and returned: only under torch.no_grad(), theta and h in the compute dtype, k and v in any
    floating type. Raises ValueError for a wrong argument, by name.
    """
    tokens = Tokens(q, k, v, z, adt, dt, trap, angles)
    weights = Weights(q_bias, k_bias, D, mimo_x, mimo_z, mimo_o, norm_weight)
    sizes = checks.check_tokens(tokens, weights, pairing, steps=True)
    chosen = BACKENDS[choose(backend, sizes, 1, v.dtype, v.device)]
    state = checks.check_state("state", state, sizes, sizes.B, v)
    if inplace:
        checks.check_inplace(state, v)
    if mimo_x is None:
        tokens, weights = _single_rank(tokens, weights, 1)
    return chosen.step(tokens, weights, pairing=pairing, state=state, inplace=inplace)


def _single_rank(tokens: Tokens, weights: Weights, dim: int) -> tuple[Tokens, Weights]:
    """A call without MIMO in the form with R = 1; dim is where R stands in q and k."""
    H, N = weights.q_bias.shape[0], weights.q_bias.shape[-1]
    return (
        tokens._replace(q=tokens.q.unsqueeze(dim), k=tokens.k.unsqueeze(dim)),
        weights._replace(q_bias=weights.q_bias.reshape(H, 1, N), k_bias=weights.k_bias.reshape(H, 1, N)),
    )


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    """x weight^T in `dtype`, both rounded to it first: x [..., K], weight [N, K] -> [..., N]; differentiable.

    With backend "triton" a row's bits depend on that row alone (fixed_matmul).
    """
    if backend == "triton":
        from .fixed_matmul import fixed_matmul

        return fixed_matmul(x.to(dtype), weight.to(dtype))
    return F.linear(x.to(dtype), weight.to(dtype))


def rms_norm(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype, backend: str) -> Tensor:
    """x * rsqrt(mean x^2 + eps) * weight over the last axis, in at least fp32, to out_dtype; differentiable."""
    if backend == "triton":
        from .row_norm import row_norm

        return row_norm(x, weight, eps, out_dtype=out_dtype)
    return F.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(out_dtype)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    """(rms_norm(residual + x), residual + x); the sum has residual's dtype."""
    if backend == "triton":
        from .row_norm import add_row_norm

        return add_row_norm(x, residual, weight, eps, out_dtype=out_dtype)
    total = residual + x
    return rms_norm(total, weight, eps, out_dtype, backend), total


def swiglu(x: Tensor, backend: str) -> Tensor:
    """[..., 2F], value before gate -> value * silu(gate) [..., F]; differentiable."""
    if backend == "triton":
        from .swiglu import swiglu as fused

        return fused(x)
    value, gate = x.chunk(2, dim=-1)
    return value * F.silu(gate)


def linear_logprob(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Log-probability of given tokens and entropy, from hidden states and the head's weight; differentiable.

    hidden [T, D], weight [V, D], targets int [T] -> natural log-probability [T] and entropy in nats [T] of
    softmax(hidden weight^T / temperature), in at least fp32. backend "reference" (also "auto") or "triton", which multiplies
    in the dtype that hidden and weight share. Raises ValueError for another backend.
    """
    if backend == "triton":
        from .linear_logprob_triton import linear_logprob_triton  # only here: Triton exists on Linux alone

        return linear_logprob_triton(hidden, weight, targets.long(), temperature)[:2]
    if backend not in ("auto", "reference"):
        raise ValueError(f"backend: {backend!r} came, one of auto, reference, triton wanted")
    return linear_logprob_reference(hidden, weight, targets, temperature)


def sample_logprob(
    hidden: Tensor, weight: Tensor, seed: Tensor, keys: Tensor, positions: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Draw a token a row with the noise of sampling.gumbel_noise, without gradient.

    hidden [T, D], weight [V, D]; seed int64 [1]; keys and positions int64 [T] -> tokens int64 [T], logprobs fp32 [T], which have the
    bits of linear_logprob's with backend "triton".
    """
    from .linear_logprob_triton import sample_logprob_triton  # only here: Triton exists on Linux alone

    return sample_logprob_triton(hidden, weight, seed=seed, keys=keys, positions=positions, temperature=temperature)
