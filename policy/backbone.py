"""The stack around the Mamba-3 layer: embedding, residual blocks with their MLP, final norm."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Mamba3Config
from .mixer import LayerState, Linear, Mamba3Mixer, RMSNorm

PolicyState = list[LayerState]  # one entry a layer


class GatedMLP(nn.Module):
    """fc2(value * silu(gate)); fc1's first half is the value, its second the gate."""

    def __init__(self, config: Mamba3Config, compute_dtype: torch.dtype | None):
        super().__init__()
        self.fc1 = Linear(config.d_model, 2 * config.mlp_width, compute_dtype)
        self.fc2 = Linear(config.mlp_width, config.d_model, compute_dtype, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * F.silu(gate))


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

    def forward(self, residual: Tensor, **scan: Any) -> tuple[Tensor, LayerState | None]:
        out, state = self.mixer(self.norm(residual), **scan)
        return self._finish(residual, out), state

    def step(self, residual: Tensor, state: LayerState, **how: Any) -> tuple[Tensor, LayerState]:
        out, state = self.mixer.step(self.norm(residual), state, **how)
        return self._finish(residual, out), state

    def _finish(self, residual: Tensor, out: Tensor) -> Tensor:
        residual = residual + out
        return residual + self.mlp(self.norm2(residual)) if self.has_mlp else residual


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

    def forward(self, input_ids: Tensor, initial_state: PolicyState | None, **scan: Any) -> tuple[Tensor, PolicyState]:
        residual, states = self.embed(input_ids), []
        for i, layer in enumerate(self.blocks):
            residual, state = layer(residual, initial_state=initial_state[i] if initial_state else None, **scan)
            states.append(state)
        return self.norm_f(residual), states

    def step(self, input_ids: Tensor, state: PolicyState, **how: Any) -> tuple[Tensor, PolicyState]:
        residual, states = self.embed(input_ids), []
        for layer, layer_state in zip(self.blocks, state, strict=True):
            residual, new = layer.step(residual, layer_state, **how)
            states.append(new)
        return self.norm_f(residual), states
