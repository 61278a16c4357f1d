"""The reference against the golden vectors of the public implementation."""

from __future__ import annotations

import pytest
import torch
from goldens import angle_error, case, error, load, names, needs_goldens
from recurrence import FIELDS, TOKENS
from torch import Tensor

from mimosa.kernels.dispatch import mamba3_scan

INPUTS = (*TOKENS, "q_bias", "k_bias", "D", "mimo_x", "mimo_z", "mimo_o", "norm_w")
SCANS = [*names("siso_*"), *names("mimo_*")]
LOSSES = [(name, kind) for name in SCANS for kind in ("g", "gf") if f"{kind}_q" in load(name)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


def run(
    golden: dict[str, Tensor], name: str, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, ...]]:
    """Leaves by golden name, output and final state."""
    leaves = {key: golden[key].to(dtype).requires_grad_() for key in INPUTS if key in golden}
    arguments = {("norm_weight" if key == "norm_w" else key): x for key, x in leaves.items()}
    state = None
    if "in_h" in golden:
        leaves |= {f"in_{field}": golden[f"in_{field}"].to(dtype).requires_grad_() for field in FIELDS}
        state = tuple(leaves[f"in_{field}"] for field in FIELDS)
    out, end = mamba3_scan(
        **arguments,
        pairing=case("scan", name)["pairing"],
        cu_seqlens=golden.get("cu_seqlens"),
        initial_state=state,
        return_state=True,
    )
    return leaves, out, end


def allowed(expected: Tensor, dtype: torch.dtype, fp64: float, fp32: float) -> float:
    """A figure that is stored in fp32 cannot be met closer than 1e-6."""
    if dtype == torch.float32:
        return fp32
    return fp64 if expected.dtype == torch.float64 else 1e-6


@needs_goldens
@DTYPES
@pytest.mark.parametrize("name", SCANS)
def test_outputs_and_final_states(name: str, dtype: torch.dtype) -> None:
    golden = load(name)
    _, out, end = run(golden, name, dtype)
    assert out.dtype == dtype
    assert error(out, golden["out"]) < allowed(golden["out"], dtype, 1e-12, 2e-5)
    for field, x in zip(FIELDS, end, strict=True):
        expected = golden[f"fin_{field}"]
        measure = angle_error if field == "theta" else error
        assert measure(x, expected) < allowed(expected, dtype, 1e-12, 2e-5), field


@needs_goldens
@DTYPES
@pytest.mark.parametrize(("name", "kind"), LOSSES)
def test_gradients(name: str, kind: str, dtype: torch.dtype) -> None:
    """g: of sum(out * dout); gf: of that plus the sum over the final state's parts of fin * dfin."""
    golden = load(name)
    leaves, out, end = run(golden, name, dtype)
    loss = (out * golden["dout"]).sum()
    if kind == "gf":
        loss = loss + sum((x * golden[f"dfin_{field}"]).sum() for field, x in zip(FIELDS, end, strict=True))
    compared = []
    for key, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        expected = golden[f"{kind}_{key}"]
        if expected.abs().max() > 1e-8:  # the gradients of adt and angles are analytically zero for a single token
            compared.append(key)
            assert error(gradient, expected) < allowed(expected, dtype, 1e-11, 1e-4), key
    assert set(leaves) - set(compared) <= {"adt", "angles"}
