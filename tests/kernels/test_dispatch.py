"""The door: defaults, and a second backend behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recurrence import example, example_state, token

from mimosa.kernels import dispatch
from mimosa.kernels.checks import Sizes
from mimosa.kernels.tensors import State


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A backend "spy" that notes its arguments."""
    noted: list[tuple[Any, ...]] = []

    def scan(tokens: Any, weights: Any, **settings: Any) -> tuple[Any, Any]:
        noted.append((tokens, weights, settings))
        return "out", "state"

    def step(tokens: Any, weights: Any, **settings: Any) -> tuple[Any, Any]:
        noted.append((tokens, weights, settings))
        return "out", settings["state"]

    monkeypatch.setitem(dispatch.BACKENDS, "spy", dispatch.Backend(scan, step))
    return noted


@pytest.mark.parametrize(("R", "rows"), [(0, 64), (1, 64), (2, 32), (3, 21), (65, 1)])
def test_a_tile_has_64_rows(calls: list[tuple[Any, ...]], R: int, rows: int) -> None:
    arguments = example(0, R=R)
    assert dispatch.mamba3_scan(**arguments, pairing="half", backend="spy") == "out"
    dispatch.mamba3_scan(**arguments, pairing="half", chunk_size=5, backend="spy")
    assert [settings["chunk_size"] for _, _, settings in calls] == [rows, 5]


def test_a_backend_sees_one_form(calls: list[tuple[Any, ...]]) -> None:
    """Without MIMO q, k and the biases arrive with R = 1; a plain tuple arrives as a State."""
    arguments = example(0, B=2, T=5, H=4, G=2, N=6, R=0)
    state = example_state(0, arguments, 2)
    out = dispatch.mamba3_scan(**arguments, pairing="half", initial_state=state, return_state=True, backend="spy")
    assert out == ("out", "state")
    dispatch.mamba3_step(**token(arguments, 3), pairing="half", state=state, backend="spy")
    (tokens, weights, settings), (step_tokens, step_weights, step_settings) = calls
    assert torch.equal(tokens.q, arguments["q"].unsqueeze(2))
    assert torch.equal(step_tokens.k, arguments["k"][:, 3].unsqueeze(1))
    assert torch.equal(weights.q_bias, arguments["q_bias"].unsqueeze(1))
    assert step_weights.k_bias.shape == (4, 1, 6) and weights.mimo_x is None
    assert isinstance(settings["initial_state"], State) and isinstance(step_settings["state"], State)


def test_auto_is_the_reference_on_a_cpu() -> None:
    arguments = example(1, T=3)
    by_name = dispatch.mamba3_scan(**arguments, pairing="half", backend="reference")
    assert torch.equal(dispatch.mamba3_scan(**arguments, pairing="half"), by_name)


@pytest.mark.parametrize(
    ("change", "device", "chosen"),
    [
        ({}, "cuda", "triton"),
        ({}, "cpu", "reference"),
        ({"P": 24}, "cuda", "reference"),
        ({"R": 3}, "cuda", "reference"),
        ({"S": 5}, "cuda", "reference"),
        ({"size": 65}, "cuda", "reference"),
        ({"dtype": torch.float64}, "cuda", "reference"),
    ],
    ids=str,
)
def test_auto_is_triton_on_cuda_for_what_its_tiles_take(change: dict[str, Any], device: str, chosen: str) -> None:
    """By the device that is named: none is touched."""
    settings: dict[str, Any] = dict(size=32, dtype=torch.bfloat16) | change
    size, dtype = settings.pop("size"), settings.pop("dtype")
    sizes = Sizes(**dict(B=1, T=None, H=3, P=32, R=2, G=1, N=16, S=8) | settings)
    assert dispatch.choose("auto", sizes, size, dtype, torch.device(device)) == chosen
    assert dispatch.choose("reference", sizes, size, dtype, torch.device(device)) == "reference"
    with pytest.raises(
        ValueError, match=r"^backend: 'cuda' came, which is not available; one of auto, reference, triton"
    ):
        dispatch.choose("cuda", sizes, size, dtype, torch.device(device))
