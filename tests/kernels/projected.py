"""Layers between their two projections, and rows of in_proj for them."""

from __future__ import annotations

from typing import Any

import torch
from goldens import case, load
from torch import Tensor

from mimosa.kernels.projection import Layer
from mimosa.kernels.tensors import Weights


def example_layer(
    seed: int = 0,
    *,
    H: int = 2,
    G: int = 1,
    N: int = 16,
    P: int = 16,
    R: int = 1,
    S: int = 4,
    C: int = 4,
    norm: bool = False,
    pairing: Any = "half",
    a_activation: str = "heavy_tail",
) -> Layer:
    """Random parameters; R = 1 is a layer without MIMO."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mimo = [normal(H, R, P) if R > 1 else None for _ in range(3)]
    weights = Weights(normal(H, R, N), normal(H, R, N), normal(H), *mimo, normal(H * P) if norm else None)
    return Layer(weights, normal(N), normal(N), normal(H) - 1, G, P, S, pairing, C, a_activation)


def example_rows(layer: Layer, tokens: int, seed: int = 1) -> Tensor:
    """in_proj's rows [tokens, width]."""
    return torch.randn(tokens, sum(layer.widths), generator=torch.Generator().manual_seed(seed))


def golden_layer(name: str) -> tuple[Layer, dict[str, Tensor], dict[str, Tensor]]:
    """A layer of the golden files in fp32, its parameters by name (leaves), and the file's tensors."""
    golden, sizes = load(name), case("layer", name)
    p = {
        key.removeprefix("param."): x.float().requires_grad_() for key, x in golden.items() if key.startswith("param.")
    }
    weights = Weights(
        p["C_bias"], p["B_bias"], p["D"], p.get("mimo_x"), p.get("mimo_z"), p.get("mimo_o"), p.get("norm.weight")
    )
    layer = Layer(
        weights, p["B_norm.weight"], p["C_norm.weight"], p["dt_bias"], sizes["G"], sizes["P"], sizes["S"],
        "half" if sizes["is_mimo"] else "interleaved", 8, sizes["act"], sizes["A_floor"],
    )  # fmt: skip
    return layer, p, golden
