"""The recurrent step in Triton against the reference step, and the decode in recurrent mode against the scan."""

from __future__ import annotations

import pytest
import torch
from goldens import angle_error, error
from projected import example_layer, example_rows
from recurrence import example, example_state, token

from mimosa.kernels.decode import mamba3_decode
from mimosa.kernels.dispatch import mamba3_step
from mimosa.kernels.projection import Layer, scan_from_projection
from mimosa.kernels.recurrent import mamba3_recurrent
from mimosa.kernels.slot_state import SlotState
from mimosa.kernels.tensors import State

STEPS = {
    "siso": dict(R=0, N=32, S=8, norm=True, shared_angles=True, pairing="interleaved"),
    "siso_rope1": dict(R=0, N=16, S=8, pairing="interleaved"),
    "mimo": dict(R=4, N=16, S=8, shared_angles=False, pairing="half"),
    "mimo_norm": dict(R=2, N=32, S=8, norm=True, pairing="half"),
}


def empty(layer: Layer, slots: int) -> State:
    s = layer.sizes
    shapes = ((s.H, s.S), (s.H, s.P, s.N), (s.R, s.H, s.N), (s.H, s.P))
    return State(*(torch.zeros(slots, *shape) for shape in shapes))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_step_is_the_reference_s(kind: str, inplace: bool) -> None:
    sizes = dict(STEPS[kind])
    pairing = sizes.pop("pairing")
    arguments = example(3, B=3, T=1, H=4, G=2, P=16, dtype=torch.float32, **sizes)
    start = example_state(3, arguments, 3)
    expected, expected_state = mamba3_step(**token(arguments, 0), pairing=pairing, state=start)
    state = tuple(x.clone() for x in start)
    with torch.no_grad():
        out, new = mamba3_step(**token(arguments, 0), pairing=pairing, state=state, inplace=inplace, backend="triton")
    assert error(out, expected) < 2e-6
    assert angle_error(new.theta, expected_state.theta) < 2e-6
    for x, y in zip(new[1:], expected_state[1:], strict=True):
        assert error(x, y) < 2e-6
    for given, x, before in zip(state, new, start, strict=True):
        assert (given.data_ptr() == x.data_ptr()) == inplace
        assert torch.equal(given, before) != inplace


@pytest.mark.parametrize(
    "kind", [dict(R=1, pairing="interleaved"), dict(R=4, norm=True, a_activation="softplus")], ids=["siso", "mimo"]
)
def test_recurrent_and_replay_mode_agree(kind: dict) -> None:
    """To 2e-5, with the scan too; and other slots stay as they are."""
    layer = example_layer(C=4, **kind)
    rows = example_rows(layer, 6)
    expected, end = scan_from_projection(rows.unsqueeze(0), layer, return_state=True)
    state, replay = empty(layer, 3), SlotState.alloc(layer, 3, torch.float32, "cpu")
    slots = torch.tensor([-1, 2], dtype=torch.int32)
    for t, row in enumerate(rows):
        both = torch.stack([row, row])
        out = mamba3_recurrent(both, layer, state, slots)
        again = mamba3_decode(both, layer, replay, slots)
        replay.advance(slots)
        assert error(out[1], again[1]) < 2e-5 and error(out[1], expected[0, t]) < 2e-5
        assert not out[0].any()
    assert angle_error(state.theta[2], end.theta[0]) < 2e-5
    for x, y in zip(state[1:], end[1:], strict=True):
        assert error(x[2], y[0]) < 2e-5
        assert not x[:2].any()


def test_a_step_with_gradients_is_refused() -> None:
    arguments = example(3, T=1, H=2, N=16, P=16, R=0, S=4, dtype=torch.float32)
    arguments["v"].requires_grad_()
    with pytest.raises(ValueError, match=r"^backend: 'triton' came for a step with gradients"):
        mamba3_step(**token(arguments, 0), pairing="half", state=example_state(3, arguments, 1), backend="triton")


def test_wrong_arguments() -> None:
    layer = example_layer()
    rows, state = example_rows(layer, 2), empty(layer, 2)
    slots = torch.tensor([0, 1], dtype=torch.int32)
    for changed, message in (
        (dict(state=state._replace(h=state.h.double())), r"^state.h: torch.float64 came, torch.float32 wanted"),
        (
            dict(state=state._replace(k=state.k[:, :, :1])),
            r"^state.k: \[2, 1, 1, 16\] on cpu came, contiguous \[2, 1, 2, 16\]",
        ),
        (dict(slots=torch.tensor([0, 2], dtype=torch.int32)), r"^slots: 2 came, -1 to 1 wanted"),
        (dict(projection=rows[:, 1:]), r"^projection: shape"),
    ):
        with pytest.raises(ValueError, match=message):
            mamba3_recurrent(**dict(projection=rows, layer=layer, state=state, slots=slots) | changed)
