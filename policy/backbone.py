"""The stack around the Mamba-3 layer: embedding, residual blocks with their MLP, final norm."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..kernels import dispatch
from .config import Mamba3Config
from .mixer import LayerState, Linear, Mamba3Mixer, RMSNorm

PolicyState = list[LayerState]  # one entry a layer


class GatedMLP(nn.Module):
    """fc2(value * silu(gate)); fc1's first half is the value, its second the gate."""

    def __init__(self, config: Mamba3Config, compute_dtype: torch.dtype | None):
        super().__init__()
        self.fc1 = Linear(config.d_model, 2 * config.mlp_width, compute_dtype)
        self.fc2 = Linear(config.mlp_width, config.d_model, compute_dtype, residual=True)

    def forward(self, x: Tensor, backend: str) -> Tensor:
        return self.fc2(dispatch.swiglu(self.fc1(x, backend), backend), backend)


class Block(nn.Module):
    """Residual block: res += mixer(norm(res)); res += mlp(norm2(res)). The residual stream stays in fp32."""

    def __init__(self, config: Mamba3Config, compute_dtype: torch.dtype | None):
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba3Mixer(config, compute_dtype)
        self.has_mlp = config.mlp_width > 0
        if self.has_mlp:
            self.norm2 = RMSNorm(config.d_model, config.norm_eps)
            self.mlp = GatedMLP(config, compute_dtype)

    def forward(self, residual: Tensor, *, backend: str, **scan: Any) -> tuple[Tensor, LayerState | None]:
        out, state = self.mixer(self.normed(residual, backend), backend=backend, **scan)
        return self.finish(residual, out, backend), state

    def step(self, residual: Tensor, state: LayerState, *, backend: str, **how: Any) -> tuple[Tensor, LayerState]:
        out, state = self.mixer.step(self.normed(residual, backend), state, backend=backend, **how)
        return self.finish(residual, out, backend), state

    def normed(self, residual: Tensor, backend: str) -> Tensor:
        """What the mixer's projection takes."""
        return self.norm(residual, self.mixer.in_proj.dtype, backend)

    def finish(self, residual: Tensor, out: Tensor, backend: str) -> Tensor:
        """The residual stream after the mixer's output and the MLP."""
        if not self.has_mlp:
            return residual + out
        norm = self.norm2
        x, residual = dispatch.add_rms_norm(out, residual, norm.weight, norm.eps, self.mlp.fc1.dtype, backend)
        return residual + self.mlp(x, backend)


class Backbone(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, config: Mamba3Config, compute_dtype: torch.dtype | None):
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, compute_dtype) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(self.layers))

    def embed(self, input_ids: Tensor) -> Tensor:
        out = self.embedding(input_ids)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def forward(
        self, input_ids: Tensor, initial_state: PolicyState | None, *, backend: str, **scan: Any
    ) -> tuple[Tensor, PolicyState]:
        """input_ids int [B, T] -> (hidden [B, T, D] after the final norm, one state a layer)."""
        backend = self.chosen(backend)
        residual, states = self.embed(input_ids), []
        for i, layer in enumerate(self.blocks):
            start = initial_state[i] if initial_state else None
            residual, state = layer(residual, backend=backend, initial_state=start, **scan)
            states.append(state)
        return self.norm_f(residual, backend=backend), states

    def step(self, input_ids: Tensor, state: PolicyState, *, backend: str, **how: Any) -> tuple[Tensor, PolicyState]:
        """One token of n sequences: input_ids int [n] -> (hidden [n, D], one state a layer)."""
        backend = self.chosen(backend)
        residual, states = self.embed(input_ids), []
        for layer, layer_state in zip(self.blocks, state, strict=True):
            residual, new = layer.step(residual, layer_state, backend=backend, **how)
            states.append(new)
        return self.norm_f(residual, backend=backend), states

    def chosen(self, backend: str) -> str:
        """The backend behind a name, the same for all layers: "auto" looks at their sizes and device."""
        return self.blocks[0].mixer.chosen(backend)
