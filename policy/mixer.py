"""The Mamba-3 layer: projections and per-token pre-processing around the scan and the step.

SPEC is docs/mamba3.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch
from ..kernels.checks import Sizes
from ..kernels.tensors import Weights
from .config import Mamba3Config

if TYPE_CHECKING:
    from ..kernels.projection import Layer


class LayerState(NamedTuple):
    """What a layer carries from token to token, one row per sequence (n), all zero at a sequence's start."""

    theta: Tensor  # [n, H, S] cumulative angle
    h: Tensor  # [n, H, P, N]
    k: Tensor  # [n, R, H, N] last key, biased and rotated
    v: Tensor  # [n, H, P] last input


class Linear(nn.Linear):
    """A linear layer without bias that multiplies in `compute_dtype` (None: its weight's dtype).

    Learner and rollout share it: the learner's fp32 weight is rounded here exactly as the broadcast rounds it.
    """

    def __init__(self, inputs: int, outputs: int, compute_dtype: torch.dtype | None = None, residual: bool = False):
        super().__init__(inputs, outputs, bias=False)
        self.compute_dtype = compute_dtype
        self.residual = residual  # writes into the residual stream: initialised smaller

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype or self.weight.dtype

    def forward(self, x: Tensor, backend: str = "reference") -> Tensor:
        return dispatch.linear(x, self.weight, self.dtype, backend)


class RMSNorm(nn.Module):
    """x * rsqrt(mean x^2 + eps) * weight over the last axis, in at least fp32; the result has out_dtype (None: the weight's)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, out_dtype: torch.dtype | None = None, backend: str = "reference") -> Tensor:
        return dispatch.rms_norm(x, self.weight, self.eps, out_dtype or self.weight.dtype, backend)


def a_activation(logit: Tensor, kind: str) -> Tensor:
    """f of SPEC sec. 3: softplus, or the heavy tail 1 + x for x >= 0 and 1 / (1 - x) below."""
    if kind == "softplus":
        return F.softplus(logit)
    return torch.where(logit >= 0, 1 + logit, 1 / (1 - logit.clamp(max=0)))


class Mamba3Mixer(nn.Module):
    """One Mamba-3 layer, SISO or MIMO. Parameter names and shapes are those of state-spaces/mamba."""

    def __init__(self, config: Mamba3Config, compute_dtype: torch.dtype | None):
        super().__init__()
        c = self.config = config
        heads, rank, state, groups = c.n_heads, c.rank, c.d_state, c.ngroups
        self.sizes = [
            c.d_inner,
            c.d_inner,
            rank * groups * state,
            rank * groups * state,
            heads,
            heads,
            heads,
            c.n_angles,
        ]
        self.in_proj = Linear(c.d_model, sum(self.sizes), compute_dtype)
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.B_bias = nn.Parameter(torch.ones(heads, rank, state))
        self.C_bias = nn.Parameter(torch.ones(heads, rank, state))
        self.B_norm = RMSNorm(state, c.norm_eps)
        self.C_norm = RMSNorm(state, c.norm_eps)
        if c.is_mimo:
            self.mimo_x = nn.Parameter(torch.ones(heads, rank, c.headdim) / rank)
            self.mimo_z = nn.Parameter(torch.ones(heads, rank, c.headdim))
            self.mimo_o = nn.Parameter(torch.ones(heads, rank, c.headdim) / rank)
        self.D = nn.Parameter(torch.ones(heads))
        if c.is_outproj_norm:
            self.norm = RMSNorm(c.d_inner, c.norm_eps)
        self.out_proj = Linear(c.d_inner, c.d_model, compute_dtype, residual=True)

    def forward(
        self,
        u: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
        initial_state: LayerState | None = None,
        return_state: bool = False,
        backend: str = "reference",
    ) -> tuple[Tensor, LayerState | None]:
        """u [B, T, D] -> (output [B, T, D], final state or None). With cu_seqlens B is 1 and sequences lie end to end.

        backend "triton": everything between the projections and the projections themselves in kernels whose rows do not depend on
        their neighbours, with the bits that a decoded token has; "reference": the formulas in torch.
        """
        if backend == "triton":
            from ..kernels.projection import scan_from_projection

            out, state = scan_from_projection(
                self.in_proj(u, backend), self.layer(), cu_seqlens=cu_seqlens, initial_state=initial_state, return_state=return_state
            )  # fmt: skip
            return self.out_proj(out.flatten(-2), backend), LayerState(*state) if state is not None else None
        operands = self._operands(u)
        adt, dt, trap = (x.transpose(1, 2) for x in operands[4:7])
        result = dispatch.mamba3_scan(
            *operands[:4], adt, dt, trap, operands[7], **self._parameters_of_scan(), pairing=self.config.pairing,
            chunk_size=self.config.tile_tokens, cu_seqlens=cu_seqlens, initial_state=initial_state,
            return_state=return_state, backend=backend,
        )  # fmt: skip
        out, state = result if return_state else (result, None)
        return self.out_proj(out.flatten(-2)), LayerState(*state) if state is not None else None

    def step(
        self, u: Tensor, state: LayerState, *, inplace: bool = False, backend: str = "reference"
    ) -> tuple[Tensor, LayerState]:
        """u [n, D], one token of each of n sequences -> (output [n, D], new state; the same tensors when inplace)."""
        out, state = dispatch.mamba3_step(
            *self._operands(u, backend), **self._parameters_of_scan(), pairing=self.config.pairing, state=state, inplace=inplace,
            backend=backend,
        )  # fmt: skip
        return self.out_proj(out.flatten(-2), backend), LayerState(*state)

    def layer(self) -> Layer:
        """The layer between its two projections, as the kernels take it."""
        from ..kernels.projection import Layer  # only here: Triton exists on Linux alone

        c = self.config
        mimo = (self.mimo_x, self.mimo_z, self.mimo_o) if c.is_mimo else (None, None, None)
        norm = self.norm.weight if c.is_outproj_norm else None
        return Layer(
            Weights(self.C_bias, self.B_bias, self.D, *mimo, norm), self.B_norm.weight, self.C_norm.weight, self.dt_bias,
            c.ngroups, c.headdim, c.n_angles, c.pairing, c.tile_tokens, c.a_activation, c.a_floor, c.norm_eps,
        )  # fmt: skip

    def _operands(self, u: Tensor, backend: str = "reference") -> tuple[Tensor, ...]:
        """Split in_proj's rows and apply SPEC sec. 3 up to the biases: q, k, v, z, adt, dt, trap, angles."""
        c = self.config
        z, x, b, q, dt, a, trap, angle = self.in_proj(u, backend).split(self.sizes, dim=-1)
        lead = u.shape[:-1]
        heads_shape = (*lead, c.n_heads, c.headdim)
        bc_shape = (*lead, c.rank, c.ngroups, c.d_state) if c.is_mimo else (*lead, c.ngroups, c.d_state)
        wide = self.dt_bias.dtype
        dt = F.softplus(dt.to(wide) + self.dt_bias)
        adt = -a_activation(a.to(wide), c.a_activation).clamp(min=c.a_floor) * dt
        k, q = self.B_norm(b.reshape(bc_shape)), self.C_norm(q.reshape(bc_shape))
        angles = angle.to(wide).unsqueeze(-2)  # shared by all heads
        return q, k, x.reshape(heads_shape), z.reshape(heads_shape), adt, dt, trap.to(wide), angles

    def _parameters_of_scan(self) -> dict[str, Tensor | None]:
        mimo = self.config.is_mimo
        return {
            "q_bias": self.C_bias if mimo else self.C_bias.squeeze(1),
            "k_bias": self.B_bias if mimo else self.B_bias.squeeze(1),
            "D": self.D,
            "mimo_x": self.mimo_x if mimo else None,
            "mimo_z": self.mimo_z if mimo else None,
            "mimo_o": self.mimo_o if mimo else None,
            "norm_weight": self.norm.weight if self.config.is_outproj_norm else None,
        }

    def chosen(self, backend: str) -> str:
        """The backend that a call with this name runs on: "auto" looks at the layer's sizes and device."""
        c, weight = self.config, self.in_proj.weight
        sizes = Sizes(B=1, T=None, H=c.n_heads, P=c.headdim, R=c.rank, G=c.ngroups, N=c.d_state, S=c.n_angles)
        return dispatch.choose(backend, sizes, c.tile_tokens, self.in_proj.dtype, weight.device)

    def empty_state(self, rows: int, device: torch.device, dtype: torch.dtype = torch.float32) -> LayerState:
        """The state before the first token of `rows` sequences."""
        c = self.config
        shapes = ((c.n_heads, c.n_angles), (c.n_heads, c.headdim, c.d_state), (c.rank, c.n_heads, c.d_state),
                  (c.n_heads, c.headdim))  # fmt: skip
        return LayerState(*(torch.zeros((rows, *shape), device=device, dtype=dtype) for shape in shapes))
