"""The slots of the replay decode: prefill in pieces, copies, export and import, and what is refused."""

from __future__ import annotations

import pytest
import torch
from goldens import angle_error, error
from projected import example_layer, example_rows

from mimosa.kernels.projection import scan_from_projection
from mimosa.kernels.slot_state import SlotState, prefill

C = 3
FIELDS = ("g", "theta", "turn", "ring_k", "ring_x", "ring_scalars", "ring_b", "ring_angle", "position")


def live(state: SlotState, slot: int) -> dict[str, torch.Tensor]:
    """A slot's parts with the ring rows that are still to be read, in the order of their positions."""
    held = (int(state.position[slot]) - 1) % C + 1
    parts = {name: getattr(state, name)[slot] for name in FIELDS}
    R = parts["ring_b"].shape[1]
    return parts | {
        "ring_k": parts["ring_k"][:, : held * R],
        "ring_x": parts["ring_x"][:, :held],
        "ring_b": parts["ring_b"][:held],
        "ring_angle": parts["ring_angle"][:held],
        "ring_scalars": parts["ring_scalars"][..., :held],
    }


@pytest.mark.parametrize("R", [1, 4])
@pytest.mark.parametrize("cuts", [(C - 1,), (C,), (C + 1, 2 * C)], ids=str)
def test_pieces_are_one_piece_bit_for_bit(R: int, cuts: tuple[int, ...]) -> None:
    layer = example_layer(C=C, R=R)
    rows = example_rows(layer, 2 * C + 3).unsqueeze(0)
    state = SlotState.alloc(layer, 2, torch.float32, "cpu")
    whole = prefill(rows, layer, state, [0])
    outs = [prefill(part, layer, state, [1]) for part in rows.tensor_split(cuts, dim=1)]
    assert torch.equal(torch.cat(outs, dim=1), whole)
    ours, theirs = live(state, 1), live(state, 0)
    for name in FIELDS:
        assert torch.equal(ours[name], theirs[name]), name
    assert ours["position"] == 2 * C + 3 and len(ours["ring_b"]) == C


def test_packed_prompts_into_slots_at_different_positions() -> None:
    layer = example_layer(C=C, R=2, H=2, G=2)
    prompts = [example_rows(layer, n, seed=n).unsqueeze(0) for n in (6, 4, 2)]
    state = SlotState.alloc(layer, 4, torch.float32, "cpu")
    begun = [5, 3, 0]
    for slot, (prompt, n) in enumerate(zip(prompts, begun, strict=True)):
        if n:
            prefill(prompt[:, :n], layer, state, [slot])
    more = [torch.cat([p, example_rows(layer, 1, seed=77)[None]], dim=1) for p in prompts]
    lengths = [m.shape[1] - n for m, n in zip(more, begun, strict=True)]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    packed = torch.cat([m[:, n:] for m, n in zip(more, begun, strict=True)], dim=1)
    outs = prefill(packed, layer, state, [0, 1, 2], offsets).split(lengths, dim=1)
    for slot, (prompt, n, out) in enumerate(zip(more, begun, outs, strict=True)):
        expected, end = scan_from_projection(prompt, layer, return_state=True)
        assert torch.equal(out, expected[:, n:]), slot
        view = state.view(slot, layer)
        assert angle_error(view.theta, end.theta) < 1e-5
        for x, y in zip(view[1:], end[1:], strict=True):
            assert error(x, y) < 1e-6
    assert state.position.tolist() == [7, 5, 3, 0]


def test_many_prompts_at_once_are_each_alone() -> None:
    """Lengths around a chunk's end, into slots in odd order: outputs and slots as of a prefill of one."""
    layer = example_layer(C=C, H=3)
    prompts = [example_rows(layer, n, seed=n).unsqueeze(0) for n in (1, 2 * C, C - 1, C + 1, C)]
    slots = [5, 0, 3, 6, 1]
    state, alone = (SlotState.alloc(layer, 7, torch.float32, "cpu") for _ in range(2))
    lengths = [p.shape[1] for p in prompts]
    outs = prefill(torch.cat(prompts, dim=1), layer, state, slots, torch.tensor([0, *lengths]).cumsum(0))
    for slot, prompt, out in zip(slots, prompts, outs.split(lengths, dim=1), strict=True):
        assert torch.equal(prefill(prompt, layer, alone, [slot]), out)
        ours, theirs = live(state, slot), live(alone, slot)
        assert all(torch.equal(ours[name], theirs[name]) for name in FIELDS), slot
    assert not state.rows[[2, 4]].any() and state.position.tolist() == [2 * C, C, 0, C - 1, 0, 1, C + 1]


def test_copy_zero_export_import() -> None:
    layer = example_layer(C=C)
    state = SlotState.alloc(layer, 4, torch.float32, "cpu")
    prefill(example_rows(layer, C + 2).unsqueeze(0), layer, state, [1])
    before = {name: getattr(state, name)[1].clone() for name in FIELDS}
    state.copy(1, [0, 3])
    exported = state.export(1)
    state.zero([1, 3])
    for name in FIELDS:
        x = getattr(state, name)
        assert torch.equal(x[0], before[name]) and before[name].any(), name
        assert not x[1].any() and not x[2].any() and not x[3].any(), name
    state.import_(2, exported)
    assert all(torch.equal(getattr(state, name)[2], before[name]) for name in FIELDS)
    state.copy(1, [])
    with pytest.raises(ValueError, match=r"^exported.position: nothing came"):
        state.import_(2, {"row": torch.zeros_like(exported["row"])})
    assert torch.equal(state.g[2], before["g"])  # what is refused leaves nothing behind
    exported["row"].fill_(5)
    assert torch.equal(state.g[2], before["g"])  # what was taken over is a copy


def test_layers_share_a_slot_s_row() -> None:
    """Two layers of different sizes: each has its own part of the row, and the row goes as one."""
    layers = [example_layer(C=C), example_layer(7, C=C, R=2, N=32, S=8, H=1)]
    states = SlotState.alloc_all(layers, 3, torch.float32, "cpu")
    alone = [SlotState.alloc(layer, 3, torch.float32, "cpu") for layer in layers]
    for layer, state, own in zip(layers, states, alone, strict=True):
        rows = example_rows(layer, C + 1).unsqueeze(0)
        prefill(rows, layer, state, [2], positions=[0])
        prefill(rows, layer, own, [2])
    states[0].position[2] = C + 1
    states[1].copy(2, [0])
    for state, own in zip(states, alone, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(state, name)[0], getattr(own, name)[2]), name
            assert not getattr(state, name)[1].any(), name


def test_half_precision_slots_keep_a_rounded_copy_of_the_state() -> None:
    state = SlotState.alloc(example_layer(C=C), 2, torch.bfloat16, "cpu")
    state.g[0] = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(4))
    state.g_read[0] = state.g[0].bfloat16()
    state.import_(1, state.export(0))
    assert torch.equal(state.g_read[1], state.g[0].bfloat16()) and torch.equal(state.g[1], state.g[0])


@pytest.mark.parametrize(("dtype", "wide"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=["fp32", "bf16"])
def test_bytes_per_slot(dtype: torch.dtype, wide: int) -> None:
    """At the sizes of the 1.5B model, as the design has them."""
    layer = example_layer(H=64, G=1, N=128, P=64, S=32, C=64)
    state = SlotState.alloc(layer, 1, dtype, "meta")
    states = 64 * 64 * 128 * (4 + (2 if wide == 2 else 0)) + 2 * 64 * 32 * 4
    ring = 64 * (64 * 128 * wide + 64 * 64 * wide + 64 * 6 * 4 + 128 * wide + 32 * wide)
    assert state.bytes_per_slot == states + ring + 4


def test_advance_counts_each_row_once_and_nobody_s_never() -> None:
    state = SlotState.alloc(example_layer(), 3, torch.float32, "cpu")
    state.advance(torch.tensor([2, -1, 0, -1], dtype=torch.int32))
    state.advance(torch.tensor([2], dtype=torch.int32))
    assert state.position.tolist() == [1, 0, 2]


def test_what_slots_refuse() -> None:
    layer = example_layer(C=C)
    state, rows = SlotState.alloc(layer, 2, torch.float32, "cpu"), example_rows(layer, 4).unsqueeze(0)
    for call, message in (
        (lambda: SlotState.alloc(layer, 0, torch.float32, "cpu"), r"^slots: 0 came, at least 1 wanted"),
        (lambda: SlotState.alloc(layer, 1, torch.float64, "cpu"), r"^dtype: torch.float64 came"),
        (lambda: state.zero([2]), r"^slots: slot 2 came, 0 to 1 wanted"),
        (lambda: state.copy(-1, [0]), r"^src: slot -1 came"),
        (lambda: state.copy(0, [5]), r"^dsts: slot 5 came"),
        (lambda: state.view(0, layer), r"^slot: 0 came, which holds no token yet"),
        (
            lambda: state.import_(0, {"position": state.position[0]}),
            r"^exported.row: nothing came, \[\d+\] torch.uint8 wanted",
        ),
        (
            lambda: state.import_(0, state.export(1) | {"row": state.rows}),
            r"^exported.row: \[2, \d+\] torch.uint8 came",
        ),
        (lambda: prefill(rows, layer, state, [0, 1]), r"^slots: \[0, 1\] came, 1 different ones wanted"),
        (lambda: prefill(rows, layer, state, [1, 1], torch.tensor([0, 2, 4])), r"^slots: \[1, 1\] came, 2 different"),
        (lambda: prefill(rows, layer, state, [0], torch.tensor([0, 3])), r"^cu_seqlens: ends with 3, wanted T = 4"),
        (lambda: prefill(rows.expand(2, -1, -1), layer, state, [0]), r"^projection: B = 2 came, 1 wanted"),
        (lambda: prefill(rows[0], layer, state, [0]), r"^projection: shape \[4, \d+\] came, \[B, T, \d+\] wanted"),
        (lambda: prefill(rows, layer._replace(chunk_size=5), state, [0]), r"^state: slots of torch.float32, C = 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
