"""The Triton scan against the golden vectors and the fp64 recurrence, and the bits that must not depend on its surroundings."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from goldens import angle_error, case, error, load, names, needs_goldens
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence import FIELDS, TOKENS, Arguments, example, example_state, piece, recurrence
from torch import Tensor

from mimosa.kernels.dispatch import mamba3_scan
from mimosa.kernels.scan_forward import _Scan, reference_gradients

INPUTS = (*TOKENS, "q_bias", "k_bias", "D", "mimo_x", "mimo_z", "mimo_o", "norm_w")
SCANS = [*names("siso_*"), *names("mimo_*")]
few = settings(max_examples=8, deadline=None, derandomize=True)


def fp32(tensors: Arguments) -> Arguments:
    return {name: x.float() for name, x in tensors.items()}


def assert_states_equal(state: tuple[Tensor, ...], expected: tuple[Tensor, ...], bound: float) -> None:
    assert angle_error(state[0], expected[0]) < bound
    for field, x, y in zip(FIELDS[1:], state[1:], expected[1:], strict=True):
        assert error(x, y) < bound, field


@needs_goldens
@pytest.mark.parametrize("name", SCANS)
def test_goldens(name: str) -> None:
    golden = load(name)
    arguments = {("norm_weight" if key == "norm_w" else key): golden[key].float() for key in INPUTS if key in golden}
    state = tuple(golden[f"in_{field}"].float() for field in FIELDS) if "in_h" in golden else None
    out, end = mamba3_scan(
        **arguments, pairing=case("scan", name)["pairing"], cu_seqlens=golden.get("cu_seqlens"), initial_state=state,
        return_state=True, backend="triton",
    )  # fmt: skip
    assert error(out, golden["out"]) < 2e-5
    assert_states_equal(end, tuple(golden[f"fin_{field}"] for field in FIELDS), 2e-5)


@st.composite
def shapes(draw: st.DrawFn, most: int = 14) -> dict[str, int | bool]:
    """Sizes that the tile takes, at odd lengths; R = 0 is a call without MIMO."""
    groups, N = draw(st.integers(1, 2)), draw(st.sampled_from([16, 32]))
    return {
        "seed": draw(st.integers(0, 2**16)),
        "B": draw(st.integers(1, 2)),
        "T": draw(st.integers(1, most)),
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
@given(shapes(), st.sampled_from(["interleaved", "half"]), st.integers(1, 9), st.booleans())
def test_scan_is_the_recurrence(shape: dict[str, int | bool], pairing: str, chunk_size: int, continued: bool) -> None:
    arguments = example(**shape)
    state = example_state(shape["seed"], arguments, shape["B"]) if continued else None
    out, end = mamba3_scan(
        **fp32(arguments), pairing=pairing, chunk_size=chunk_size, return_state=True, backend="triton",
        initial_state=None if state is None else tuple(x.float() for x in state),
    )  # fmt: skip
    expected, expected_end = recurrence(arguments, pairing, state)
    assert error(out, expected) < 2e-5
    assert_states_equal(end, expected_end, 2e-5)


@pytest.mark.parametrize("R", [0, 4])
def test_packed_is_unpacked_bit_for_bit(R: int) -> None:
    lengths = [7, 1, 12, 4]
    offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    arguments = fp32(example(5, T=offsets[-1], H=2, N=16, P=16, R=R, S=4, norm=R > 0, shared_angles=True))
    settings = dict(pairing="half", chunk_size=4, return_state=True, backend="triton")
    out, end = mamba3_scan(**arguments, cu_seqlens=torch.tensor(offsets, dtype=torch.int32), **settings)
    for i, (first, last) in enumerate(pairwise(offsets)):
        y, y_end = mamba3_scan(**piece(arguments, first, last), **settings)
        assert torch.equal(out[:, first:last], y)
        for x, part in zip(y_end, end, strict=True):
            assert torch.equal(x, part[i : i + 1])


@pytest.mark.parametrize("R", [0, 4])
@pytest.mark.parametrize("continued", [False, True])
def test_walked_sequences_are_tiles_all_at_once_bit_for_bit(R: int, continued: bool, monkeypatch) -> None:
    """One program for a head's tiles, or one for each tile and the states in between: how many there are decides, not the result."""
    arguments = fp32(example(4, B=1, T=11, H=2, G=2, N=16, P=16, R=R, S=4, norm=True))
    state = tuple(x.float() for x in example_state(4, arguments, 3)) if continued else None
    how = dict(
        pairing="half", chunk_size=3, cu_seqlens=torch.tensor([0, 1, 7, 11]), initial_state=state, backend="triton"
    )
    ran = []
    for least in (1, 10**6):
        monkeypatch.setattr("mimosa.kernels.scan_forward.WALKS", least)
        leaves = {name: x.clone().requires_grad_() for name, x in arguments.items()}
        out, end = mamba3_scan(**leaves, **how, return_state=True)
        gradients = torch.autograd.grad((out * out.detach().cos()).sum(), list(leaves.values()))
        ran.append([out, *end, *gradients])
    for x, y in zip(*ran, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("R", "B", "bounds"), [(0, 1, [0, 2, 4, 11]), (2, 3, None)], ids=["packed", "rows"])
@pytest.mark.parametrize("at_once", [4, 4096])
def test_the_gradients_of_bf16_calls_are_those_of_the_kernels(R, B, bounds, at_once, monkeypatch) -> None:
    """What stands in for the backward kernels in bf16, asked in fp32, where both may be asked; by pieces and at once."""
    monkeypatch.setattr("mimosa.kernels.scan_forward.PIECE", at_once)
    arguments = fp32(example(6, B=B, T=11 if B == 1 else 2, H=2, G=2, N=16, P=16, R=R, S=4, norm=True))
    bounds = None if bounds is None else torch.tensor(bounds)
    state = tuple(x.float() for x in example_state(6, arguments, 3))
    names = [*TOKENS, "q_bias", "k_bias", "D", "mimo_x", "mimo_z", "mimo_o", "norm_weight"]
    tokens = [arguments[n].unsqueeze(2) if n in "qk" and not R else arguments[n] for n in TOKENS]
    weights = [arguments.get(n) for n in names[8:]]
    weights = [w.unsqueeze(1) if n.endswith("bias") and not R else w for n, w in zip(names[8:], weights, strict=True)]
    how = dict(pairing="half", chunk_size=3, cu_seqlens=bounds)
    leaves = [None if x is None else x.clone().requires_grad_() for x in (*tokens, *weights, *state)]
    outputs = _Scan.apply(how, *leaves)
    grads = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) for i, x in enumerate(outputs)]
    given = [x for x in leaves if x is not None]
    ours = torch.autograd.grad(outputs, given, grads)
    theirs = [x for x in reference_gradients(how, leaves, grads) if x is not None]
    for x, y in zip(ours, theirs, strict=True):
        assert error(x, y) < 1e-4


def test_a_row_does_not_see_later_tokens() -> None:
    """Bit for bit, at every cut, inside a tile and across its edge; and not the batch beside it."""
    arguments = fp32(example(6, B=2, T=11, H=2, N=16, P=16, R=2, S=8))
    settings = dict(pairing="half", chunk_size=4, backend="triton")
    out = mamba3_scan(**arguments, **settings)
    for cut in (4, 5):
        assert torch.equal(mamba3_scan(**piece(arguments, 0, cut), **settings), out[:, :cut])
    alone = {name: (x[1:] if name in TOKENS else x) for name, x in arguments.items()}
    assert torch.equal(mamba3_scan(**alone, **settings), out[1:])


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_two_pieces_through_the_state(cut: int) -> None:
    arguments = fp32(example(7, T=9, H=2, N=16, P=16, R=0, S=8))
    settings = dict(pairing="interleaved", chunk_size=4, return_state=True, backend="triton")
    out, end = mamba3_scan(**arguments, **settings)
    first, middle = mamba3_scan(**piece(arguments, 0, cut), **settings)
    second, last = mamba3_scan(**piece(arguments, cut, 9), initial_state=middle, **settings)
    assert error(torch.cat([first, second], dim=1), out) < 2e-5
    assert_states_equal(last, end, 2e-5)


def test_tensors_may_be_cut_out_of_wider_ones() -> None:
    arguments = fp32(example(8, B=2, T=5, H=2, G=2, N=16, P=16, R=2, S=4))
    wide = {name: torch.stack([x, x + 1], dim=-1)[..., 0] for name, x in arguments.items()}
    settings = dict(pairing="half", backend="triton")
    assert torch.equal(mamba3_scan(**wide, **settings), mamba3_scan(**arguments, **settings))


@pytest.mark.parametrize(("dtype", "tiles"), [(torch.float32, 3), (torch.bfloat16, 0)], ids=["fp32", "bf16"])
def test_what_the_gradient_keeps(dtype: torch.dtype, tiles: int) -> None:
    """Beside the arguments one angle and one fp32 state a tile and head; nothing where the backward kernels are not used."""
    T, C, H, N, P, S = 10, 4, 2, 32, 16, 8
    arguments = fp32(example(9, T=T, H=H, N=N, P=P, R=2, S=S))
    arguments |= {name: arguments[name].to(dtype) for name in ("q", "k", "v", "z")}
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    own = {x.data_ptr() for x in leaves.values()}
    kept: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        if x.data_ptr() not in own:
            kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        mamba3_scan(**leaves, pairing="half", chunk_size=C, backend="triton")
    assert sum(x.numel() * x.element_size() for x in kept) == tiles * H * 4 * (S + P * N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"P": 24}, r"^P: 24 came, one of \(16, 32, 64, 128\) wanted"),
        ({"N": 48, "S": 12}, r"^N: 48 came"),
        ({"R": 3}, r"^R: 3 came, one of \(1, 2, 4, 8\) wanted"),
        ({"S": 5}, r"^S: 5 came, N/2 = 8 or N/4 = 4 wanted"),
        ({"dtype": torch.float64}, r"^v: torch.float64 came, one of torch.float32"),
    ],
    ids=["P", "N", "R", "S", "dtype"],
)
def test_what_the_tile_does_not_take(change: dict[str, object], message: str) -> None:
    sizes = {"T": 3, "H": 2, "N": 16, "P": 16, "R": 2, "S": 4, "dtype": torch.float32} | change
    with pytest.raises(ValueError, match=message):
        mamba3_scan(**example(1, **sizes), pairing="half", backend="triton")


def test_a_tile_that_is_too_long() -> None:
    arguments = fp32(example(1, T=3, N=16, P=16, R=4, S=4))
    with pytest.raises(ValueError, match=r"^chunk_size: 33 tokens of 4 ranks came, at most 128 rows wanted"):
        mamba3_scan(**arguments, pairing="half", chunk_size=33, backend="triton")
