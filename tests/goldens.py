"""The golden vectors and the one error measure of the kernel and policy tests.

The files lie beside the checkout, in shared/mamba3/golden; its README.md names every tensor. Tests that need them are skipped
where they are absent.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "mamba3" / "golden"
needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden vectors in {FOLDER}")


def names(pattern: str) -> list[str]:
    """Names of the golden files that match a glob, without suffix; empty where there are none."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.safetensors"))


def load(name: str) -> dict[str, Tensor]:
    """All tensors of a golden file in the dtype in which they are stored."""
    return load_file(FOLDER / f"{name}.safetensors")


def case(index: str, name: str) -> dict[str, Any]:
    """The sizes of a case; `index` is "scan" or "layer"."""
    cases = json.loads((FOLDER / f"{index}_index.json").read_text())
    return cases.get("cases", cases)[name]


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of b, the expected one; computed in fp64."""
    assert a.shape == b.shape, f"{list(a.shape)} against {list(b.shape)}"
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))


def angle_error(a: Tensor, b: Tensor) -> float:
    """Largest distance of two angles on the circle, in radians."""
    assert a.shape == b.shape, f"{list(a.shape)} against {list(b.shape)}"
    turns = (a.detach().double() - b.detach().double()) / (2 * math.pi)
    return float(2 * math.pi * (turns - turns.round()).abs().max())
