"""The scan and the step against the recurrence, and against each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from goldens import angle_error, error
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence import Arguments, example, example_state, piece, recurrence, token
from torch import Tensor

from mimosa.kernels.dispatch import mamba3_scan, mamba3_step
from mimosa.kernels.tensors import State

PAIRINGS = ("interleaved", "half")
few = settings(max_examples=15, deadline=None, derandomize=True)


@st.composite
def shapes(draw: st.DrawFn, most: int = 9) -> dict[str, int | bool]:
    """Odd sizes; R = 0 is a call without MIMO."""
    groups = draw(st.integers(1, 2))
    pairs = draw(st.integers(1, 4))
    return {
        "seed": draw(st.integers(0, 2**16)),
        "B": draw(st.integers(1, 3)),
        "T": draw(st.integers(1, most)),
        "H": groups * draw(st.integers(1, 2)),
        "G": groups,
        "N": 2 * pairs,
        "P": draw(st.integers(1, 5)),
        "R": draw(st.integers(0, 3)),
        "S": draw(st.integers(1, pairs)),
        "norm": draw(st.booleans()),
        "shared_angles": draw(st.booleans()),
    }


def assert_states_equal(state: State, expected: tuple[Tensor, ...], bound: float = 1e-12) -> None:
    assert angle_error(state.theta, expected[0]) < bound
    assert ((state.theta >= 0) & (state.theta <= 2 * math.pi)).all()
    for x, y in zip(state[1:], expected[1:], strict=True):
        assert error(x, y) < bound


@few
@given(shapes(), st.sampled_from(PAIRINGS), st.integers(1, 10), st.booleans())
def test_scan_is_the_recurrence(shape: dict[str, int | bool], pairing: str, chunk_size: int, continued: bool) -> None:
    arguments = example(**shape)
    state = example_state(shape["seed"], arguments, shape["B"]) if continued else None
    out, end = mamba3_scan(**arguments, pairing=pairing, chunk_size=chunk_size, initial_state=state, return_state=True)
    expected, expected_end = recurrence(arguments, pairing, state)
    assert error(out, expected) < 1e-12
    assert_states_equal(end, expected_end)


@few
@given(shapes(), st.sampled_from(PAIRINGS), st.booleans())
def test_steps_are_the_scan(shape: dict[str, int | bool], pairing: str, inplace: bool) -> None:
    arguments = example(**shape)
    start = example_state(shape["seed"], arguments, shape["B"])
    out, end = mamba3_scan(**arguments, pairing=pairing, initial_state=start, return_state=True)
    state, outs = tuple(x.clone() for x in start), []
    with torch.no_grad():
        for t in range(shape["T"]):
            y, state = mamba3_step(**token(arguments, t), pairing=pairing, state=state, inplace=inplace)
            outs.append(y)
    assert error(torch.stack(outs, dim=1), out) < 1e-12
    assert_states_equal(State(*state), end)


@pytest.mark.parametrize("R", [0, 3])
def test_gradients_are_the_recurrence_s(R: int) -> None:
    """Packed sequences of one to several tiles, out of order, with initial and final states; every argument and part."""
    lengths = [4, 9, 1, 2, 7]
    offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    arguments = example(3, T=sum(lengths), H=4, G=2, R=R, norm=True, shared_angles=R > 0)
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    start = tuple(x.requires_grad_() for x in example_state(3, arguments, len(lengths)))
    out, end = mamba3_scan(
        **leaves,
        pairing="half",
        chunk_size=3,
        cu_seqlens=torch.tensor(offsets),
        initial_state=start,
        return_state=True,
    )
    outs, ends = [], []
    for i, (first, last) in enumerate(pairwise(offsets)):
        y, state = recurrence(piece(leaves, first, last), "half", tuple(x[i : i + 1] for x in start))
        outs.append(y)
        ends.append(state)
    expected = (torch.cat(outs, dim=1), *(torch.cat(parts) for parts in zip(*ends, strict=True)))
    assert error(out, expected[0]) < 1e-12
    assert_states_equal(end, expected[1:])
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in expected]
    inputs = [*leaves.values(), *start]
    ours = torch.autograd.grad((out, *end), inputs, weights)
    theirs = torch.autograd.grad(expected, inputs, weights)
    for name, x, y in zip([*leaves, "theta", "h", "k0", "v0"], ours, theirs, strict=True):
        assert error(x, y) < 1e-11, name


@few
@given(shapes(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.booleans())
def test_packed_is_unpacked(shape: dict[str, int | bool], lengths: list[int], chunk_size: int, continued: bool) -> None:
    offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    arguments = example(**(shape | {"B": 1, "T": sum(lengths)}))
    state = example_state(shape["seed"], arguments, len(lengths)) if continued else None
    out, end = mamba3_scan(
        **arguments,
        pairing="interleaved",
        chunk_size=chunk_size,
        cu_seqlens=torch.tensor(offsets, dtype=torch.int32),
        initial_state=state,
        return_state=True,
    )
    for i, (first, last) in enumerate(pairwise(offsets)):
        alone = None if state is None else tuple(x[i : i + 1] for x in state)
        y, y_end = mamba3_scan(
            **piece(arguments, first, last), pairing="interleaved", initial_state=alone, return_state=True
        )
        assert error(out[:, first:last], y) < 1e-12
        assert_states_equal(State(*(x[i : i + 1] for x in end)), y_end)


@few
@given(shapes(most=20), st.sampled_from(PAIRINGS), st.data())
def test_two_pieces_are_one(shape: dict[str, int | bool], pairing: str, data: st.DataObject) -> None:
    shape["T"] += 1
    arguments = example(**shape)
    cut = data.draw(st.integers(1, shape["T"] - 1))
    out, end = mamba3_scan(**arguments, pairing=pairing, return_state=True)
    first, middle = mamba3_scan(**piece(arguments, 0, cut), pairing=pairing, chunk_size=4, return_state=True)
    second, last = mamba3_scan(
        **piece(arguments, cut, shape["T"]), pairing=pairing, initial_state=middle, return_state=True
    )
    assert error(torch.cat([first, second], dim=1), out) < 1e-12
    assert_states_equal(last, end)


@pytest.mark.parametrize("R", [0, 2])
def test_the_chunk_size_does_not_matter(R: int) -> None:
    arguments = example(11, B=2, T=67, H=4, N=8, P=5, R=R, S=2)
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    results = []
    for chunk_size in (None, 1, 3, 7, 64):
        out, end = mamba3_scan(**leaves, pairing="half", chunk_size=chunk_size, return_state=True)
        gradients = torch.autograd.grad(out.square().sum() + end.h.sum(), list(leaves.values()))
        results.append((out, *end[1:], *gradients))
    for other in results[1:]:
        for x, y in zip(other, results[0], strict=True):
            assert error(x, y) < 1e-11


def test_fp32_follows_fp64_over_a_long_sequence() -> None:
    """The carried angle is reduced modulo 2 pi: its error must not grow with the angle."""
    exact = example(5, T=1500, H=2, N=8, P=4, R=2, S=4)
    out, end = mamba3_scan(**exact, pairing="half", return_state=True)
    rough, rough_end = mamba3_scan(**{name: x.float() for name, x in exact.items()}, pairing="half", return_state=True)
    assert error(rough, out) < 1e-4
    assert angle_error(rough_end.theta, end.theta) < 2e-3
    assert error(rough_end.h, end.h) < 1e-4


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_gradcheck(pairing: str) -> None:
    arguments = example(2, T=4, H=2, N=4, P=2, R=2, S=2 if pairing == "interleaved" else 1, norm=True)
    state = example_state(2, arguments, 2)
    inputs = [x.requires_grad_() for x in (*arguments.values(), *state)]

    def scan(*values: Tensor) -> tuple[Tensor, ...]:
        given_arguments = dict(zip(arguments, values, strict=False))
        out, end = mamba3_scan(
            **given_arguments,
            pairing=pairing,
            chunk_size=2,
            cu_seqlens=torch.tensor([0, 3, 4]),
            initial_state=values[len(arguments) :],
            return_state=True,
        )
        return (out, *end)

    assert torch.autograd.gradcheck(scan, inputs)


def test_gradients_through_steps_are_the_scan_s() -> None:
    arguments = example(8, B=2, T=4, R=2, norm=True)
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    state = tuple(x.requires_grad_() for x in example_state(8, arguments, 2))
    inputs = [*leaves.values(), *state]
    out, end = mamba3_scan(**leaves, pairing="half", initial_state=state, return_state=True)
    now, outs = state, []
    for t in range(4):
        y, now = mamba3_step(**token(leaves, t), pairing="half", state=now)
        outs.append(y)
    loss, other = out.square().sum() + end.h.sum(), torch.stack(outs, dim=1).square().sum() + now.h.sum()
    for x, y in zip(torch.autograd.grad(other, inputs), torch.autograd.grad(loss, inputs), strict=True):
        assert error(x, y) < 1e-11


def test_inplace_overwrites_the_slots() -> None:
    """A view of a larger pool with half-precision k and v: the rows are updated where they lie, the others are not."""
    arguments = token(example(4, B=3, T=1, R=2, dtype=torch.float32), 0)
    pool = tuple(x.clone() for x in example_state(4, example(4, B=3, R=2, dtype=torch.float32), 5))
    pool = (pool[0], pool[1], pool[2].bfloat16(), pool[3].bfloat16())
    before = tuple(x.clone() for x in pool)
    slots = tuple(x[1:4] for x in pool)
    expected, expected_state = mamba3_step(**arguments, pairing="half", state=tuple(x.clone() for x in slots))
    with torch.no_grad():
        out, state = mamba3_step(**arguments, pairing="half", state=slots, inplace=True)
    assert error(out, expected) < 1e-6
    for whole, kept, x, y in zip(pool, before, state, expected_state, strict=True):
        assert x.data_ptr() == whole[1:].data_ptr()
        assert torch.equal(whole[1:4], y.to(whole.dtype))
        assert torch.equal(whole[0], kept[0]) and torch.equal(whole[4], kept[4])


def test_inplace_reaches_strided_slots() -> None:
    """Slots that are no block of memory, as one layer of a pool [rows, layers, ...]."""
    arguments = token(example(6, B=2, T=1), 0)
    start = example_state(6, example(6, B=2), 2)
    pool = tuple(torch.stack([x, x + 1], dim=1) for x in start)
    with torch.no_grad():
        out, _ = mamba3_step(**arguments, pairing="half", state=tuple(x[:, 0] for x in pool), inplace=True)
    expected, end = mamba3_step(**arguments, pairing="half", state=start)
    assert error(out, expected) < 1e-12
    for x, before, y in zip(pool, start, end, strict=True):
        assert error(x[:, 0], y) < 1e-12
        assert torch.equal(x[:, 1], before + 1)


def rounded(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """What a model in that dtype hands over: its time steps and parameters stay fp32."""
    return {name: x.to(dtype) if name in ("q", "k", "v", "z", "angles") else x.float() for name, x in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype) -> None:
    arguments = rounded(example(9, B=2, T=13, R=2), dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = mamba3_scan(**arguments, pairing="half", return_state=True)
        y, _ = mamba3_step(**token(arguments, 0), pairing="half", state=tuple(torch.zeros_like(x) for x in state))
    expected = mamba3_scan(**{name: x.float() for name, x in arguments.items()}, pairing="half")
    assert out.dtype == y.dtype == dtype
    assert {x.dtype for x in state} == {torch.float32}
    assert torch.equal(out, expected.to(dtype))
    assert error(y, out[:, 0]) < 2 * torch.finfo(dtype).eps


def test_a_poisoned_sequence_stays_alone() -> None:
    arguments = example(10, T=23, R=2)
    offsets = torch.tensor([0, 5, 12, 13, 23])
    clean = mamba3_scan(**arguments, pairing="half", chunk_size=4, cu_seqlens=offsets)
    arguments["v"][0, 6] = math.nan
    arguments["dt"][0, :, 7] = math.inf
    out = mamba3_scan(**arguments, pairing="half", chunk_size=4, cu_seqlens=offsets)
    assert torch.equal(out[:, :5], clean[:, :5]) and torch.equal(out[:, 12:], clean[:, 12:])
    assert out[:, 8:12].isnan().all()


def test_backward_repeats_its_bits() -> None:
    arguments = example(12, T=40, H=4, R=2, dtype=torch.float32)
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    offsets = torch.tensor([0, 3, 17, 18, 40])

    def gradients() -> tuple[Tensor, ...]:
        out = mamba3_scan(**leaves, pairing="half", chunk_size=8, cu_seqlens=offsets)
        return torch.autograd.grad(out.square().sum(), list(leaves.values()))

    for x, y in zip(gradients(), gradients(), strict=True):
        assert torch.equal(x, y)
