"""The gradients of the Triton scan against the golden vectors and the fp64 reference's autograd."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from goldens import case, error, load, names, needs_goldens
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence import FIELDS, TOKENS, Arguments, example, example_state
from torch import Tensor

from mimosa.kernels import scan_backward
from mimosa.kernels.dispatch import mamba3_scan

INPUTS = (*TOKENS, "q_bias", "k_bias", "D", "mimo_x", "mimo_z", "mimo_o", "norm_w")
LOSSES = [
    (name, kind) for name in (*names("siso_*"), *names("mimo_*")) for kind in ("g", "gf") if f"{kind}_q" in load(name)
]
few = settings(max_examples=4, deadline=None, derandomize=True)


def gradients(
    arguments: Arguments, state: tuple[Tensor, ...] | None, dout: Tensor, dstate: tuple[Tensor, ...], **options: object
) -> dict[str, Tensor]:
    """By argument, "in_" before the initial state's parts: of sum(out dout) + the sum over the final state's parts of end dstate."""
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    start = None if state is None else tuple(x.detach().requires_grad_() for x in state)
    out, end = mamba3_scan(**leaves, initial_state=start, return_state=True, **options)
    loss = (out * dout).sum() + sum((x * d).sum() for x, d in zip(end, dstate, strict=False))
    if start is not None:
        leaves |= {f"in_{field}": x for field, x in zip(FIELDS, start, strict=True)}
    found = torch.autograd.grad(loss, list(leaves.values()))
    for name, x in zip(leaves, found, strict=True):
        assert x.dtype == leaves[name].dtype, name
    return dict(zip(leaves, found, strict=True))


def against_reference(
    arguments: Arguments, state: tuple[Tensor, ...] | None, seed: int, bound: float = 1e-4, **options: object
) -> None:
    """Triton within the bound of the fp64 reference, for the output and all parts of the final state.

    In fp32, or with a bound above 1e-3 in fp16: its path is bf16's, whose arithmetic the interpreter has wrong.
    """
    dtype = torch.float32 if bound < 1e-3 else torch.float16
    if dtype == torch.float16:
        arguments = {name: x.to(dtype).double() for name, x in arguments.items()}
    n = arguments["v"].shape[0] if options.get("cu_seqlens") is None else len(options["cu_seqlens"]) - 1
    dstate = example_state(seed + 1, arguments, n)
    dout = torch.randn(arguments["v"].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = gradients(arguments, state, dout, dstate, backend="reference", **options)
    rough = {
        name: x.to(dtype) if name in ("q", "k", "v", "z", "angles") else x.float() for name, x in arguments.items()
    }
    start = None if state is None else tuple(x.float() for x in state)
    found = gradients(rough, start, dout.float(), tuple(x.float() for x in dstate), backend="triton", **options)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert error(x, expected[name]) < bound, name


@needs_goldens
@pytest.mark.parametrize(("name", "kind"), LOSSES)
def test_goldens(name: str, kind: str) -> None:
    """g: of sum(out * dout); gf: of that plus the sum over the final state's parts of fin * dfin."""
    golden = load(name)
    arguments = {("norm_weight" if key == "norm_w" else key): golden[key].float() for key in INPUTS if key in golden}
    state = tuple(golden[f"in_{field}"].float() for field in FIELDS) if "in_h" in golden else None
    dstate = tuple(golden[f"dfin_{field}"].float() for field in FIELDS) if kind == "gf" else ()
    found = gradients(
        arguments, state, golden["dout"].float(), dstate, pairing=case("scan", name)["pairing"],
        cu_seqlens=golden.get("cu_seqlens"), backend="triton",
    )  # fmt: skip
    compared = set()
    for key, x in found.items():
        expected = golden[f"{kind}_{'norm_w' if key == 'norm_weight' else key}"]
        if expected.abs().max() > 1e-8:  # the gradients of adt and angles are analytically zero for a single token
            compared.add(key)
            assert error(x, expected) < 1e-4, key
        else:
            assert x.abs().max() < 1e-5, key
    assert set(found) - compared <= {"adt", "angles"}


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int | bool]:
    """Sizes that the tile takes; R = 0 is a call without MIMO."""
    groups, N = draw(st.integers(1, 2)), draw(st.sampled_from([16, 32]))
    return {
        "seed": draw(st.integers(0, 2**16)),
        "H": groups * draw(st.integers(1, 2)),
        "G": groups,
        "N": N,
        "P": draw(st.sampled_from([16, 32])),
        "R": draw(st.sampled_from([0, 1, 2, 4, 8])),
        "S": draw(st.sampled_from([N // 2, N // 4])),
        "norm": draw(st.booleans()),
        "shared_angles": draw(st.booleans()),
    }


@few
@given(
    shapes(),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.booleans(),
    st.integers(3, 9),
    st.sampled_from(["interleaved", "half"]),
    st.booleans(),
)
def test_random_shapes(
    shape: dict[str, int | bool], lengths: list[int], packed: bool, chunk_size: int, pairing: str, continued: bool
) -> None:
    """Packed sequences, or rows of a batch, of one to several tiles; with and without an initial state."""
    T, rows = (sum(lengths), 1) if packed else (max(lengths), len(lengths))
    arguments = example(**shape, T=T, B=rows)
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32) if packed else None
    state = example_state(shape["seed"], arguments, len(lengths)) if continued else None
    against_reference(arguments, state, shape["seed"], pairing=pairing, chunk_size=chunk_size, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize("programs", [1, 4], ids=["four heads", "two heads"])
def test_heads_of_a_group_are_summed(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program takes several heads of a group; the sums of several programs are added."""
    arguments = example(4, B=1, T=9, H=8, G=2, N=16, P=16, R=2, S=4, shared_angles=True)
    monkeypatch.setattr(scan_backward, "PROGRAMS", programs)
    against_reference(arguments, None, 4, pairing="half", chunk_size=8)


@pytest.mark.parametrize("R", [0, 4])
def test_rounded_operands(R: int) -> None:
    arguments = example(5, B=1, T=9, H=2, N=16, P=16, R=R, S=4, norm=R > 0)
    against_reference(arguments, example_state(5, arguments, 1), 5, bound=1e-2, pairing="half", chunk_size=8)


def test_wide_states_and_heads() -> None:
    arguments = example(6, B=1, T=5, H=1, N=128, P=128, R=4, S=32)
    against_reference(arguments, example_state(6, arguments, 1), 6, pairing="half", chunk_size=4)


def test_views_are_read_as_they_are() -> None:
    """Values and gates cut from one projection, scalars with the heads inside, an expanded output gradient."""
    arguments = {name: x.float() for name, x in example(9, B=2, T=5, H=2, N=16, P=16, R=0, S=8).items()}
    views = dict(arguments)
    wide = torch.cat([arguments["v"].flatten(2), arguments["z"].flatten(2)], dim=2)
    views["v"], views["z"] = wide[..., :32].unflatten(2, (2, 16)), wide[..., 32:].unflatten(2, (2, 16))
    for name in ("adt", "dt", "trap"):
        views[name] = arguments[name].transpose(1, 2).contiguous().transpose(1, 2)
    dout = torch.ones(()).expand(2, 5, 2, 16)
    options = dict(pairing="interleaved", chunk_size=4, backend="triton")
    expected = gradients(arguments, None, dout.contiguous(), (), **options)
    for name, x in gradients(views, None, dout, (), **options).items():
        assert torch.equal(x, expected[name]), name


def test_two_runs_give_equal_bits() -> None:
    arguments = {name: x.float() for name, x in example(3, B=1, T=7, H=4, G=2, N=16, P=16, R=2, S=8, norm=True).items()}
    dout = torch.randn(1, 7, 4, 16, generator=torch.Generator().manual_seed(3))
    runs = [gradients(arguments, None, dout, (), pairing="half", chunk_size=4, backend="triton") for _ in range(2)]
    for name, x in runs[0].items():
        assert torch.equal(x, runs[1][name]), name


def test_the_type_is_checked() -> None:
    arguments = example(1, N=16, P=16, R=0, S=8)
    with pytest.raises(ValueError, match=r"v: torch\.float64 came"):
        gradients(arguments, None, arguments["v"], (), pairing="half", backend="triton")
