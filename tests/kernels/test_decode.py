"""The replay decode: its row is the scan's row, bit for bit, whatever stands beside it and wherever its slot has been."""

from __future__ import annotations

import pytest
import torch
from goldens import error, names, needs_goldens
from projected import example_layer, example_rows, golden_layer
from torch import Tensor

from mimosa.kernels.decode import mamba3_decode
from mimosa.kernels.projection import Layer, scan_from_projection
from mimosa.kernels.slot_state import SlotState, prefill

C = 3
QUICK = ("layer_siso_128_64", "layer_siso_varlen", "layer_mimo4_t1", "layer_mimo4_128_64")
LAYERS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names("layer_*")]
KINDS = {
    "siso": dict(R=1, S=4, pairing="interleaved"),
    "siso_norm_rope1_softplus": dict(R=1, S=8, norm=True, pairing="half", a_activation="softplus"),
    "mimo": dict(R=4, S=4, G=2),
    "mimo_norm_rope1": dict(R=2, S=8, norm=True, pairing="interleaved"),
}


def scanned(layer: Layer, rows: Tensor) -> Tensor:
    """The scan's rows [tokens, H, P] of one sequence."""
    return scan_from_projection(rows.unsqueeze(0), layer)[0][0]


def decode(layer: Layer, state: SlotState, rows: list[Tensor], slots: list[int]) -> Tensor:
    numbers = torch.tensor(slots, dtype=torch.int32)
    out = mamba3_decode(torch.stack(rows), layer, state, numbers)
    state.advance(numbers)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoded_row_is_the_scan_s_row(kind: str) -> None:
    """Every position to 2C + 3, in a batch with another sequence that comes and goes, an empty row, and slots in odd order."""
    layer = example_layer(C=C, **KINDS[kind])
    one, other = example_rows(layer, 2 * C + 4, seed=2), example_rows(layer, C + 2, seed=3)
    expected, expected_other = scanned(layer, one), scanned(layer, other)
    state = SlotState.alloc(layer, 4, torch.float32, "cpu")
    for t, row in enumerate(one):
        late = t - 2
        there = 0 <= late < len(other)
        out = decode(layer, state, [row, other[late] if there else row, row], [3, 1 if there else -1, -1])
        assert torch.equal(out[0], expected[t]), t
        assert torch.equal(out[1], expected_other[late] if there else torch.zeros_like(out[1])), t
        assert not out[2].any()
    assert state.position.tolist() == [0, C + 2, 0, 2 * C + 4]
    assert not state.g[0].any() and not state.ring_x[2].any()  # slots that no row named


@pytest.mark.parametrize("R", [1, 4])
@pytest.mark.parametrize("length", [C - 1, C, C + 1])
def test_a_copied_slot_goes_on_as_the_scan(R: int, length: int) -> None:
    """After a prefill, a copy to two slots, and export and import into another pool; then across a chunk's edge."""
    layer = example_layer(C=C, R=R)
    rows = example_rows(layer, length + 2)
    expected = scanned(layer, rows)
    state, elsewhere = (SlotState.alloc(layer, 3, torch.float32, "cpu") for _ in range(2))
    state.g.fill_(9.0)  # what another sequence left there
    state.zero([0])
    first = prefill(rows[None, :length], layer, state, [0])
    assert torch.equal(first[0], expected[:length])
    state.copy(0, [2, 1])
    elsewhere.import_(2, state.export(0))
    state.zero([0])
    for t in range(length, length + 2):
        out = decode(layer, state, [rows[t], rows[t]], [1, 2])
        assert torch.equal(out[0], expected[t]) and torch.equal(out[1], expected[t]), t
        assert torch.equal(decode(layer, elsewhere, [rows[t]], [2])[0], expected[t]), t


def test_one_token_tiles_and_tiles_that_fill_their_block() -> None:
    """C = 1: every step writes a chunk. C R = 16 rows: no blank row behind the chunk."""
    for size, R in ((1, 2), (8, 2)):
        layer = example_layer(C=size, R=R, H=1)
        rows = example_rows(layer, size + 3)
        expected, state = scanned(layer, rows), SlotState.alloc(layer, 1, torch.float32, "cpu")
        for t, row in enumerate(rows):
            assert torch.equal(decode(layer, state, [row], [0])[0], expected[t]), t


def test_heads_that_fill_no_block_and_ranks_that_fill_the_queries() -> None:
    """Five heads where the sums run over four at a time; eight ranks, over the end of two chunks, with two groups."""
    for sizes in (dict(H=5, R=1, C=C), dict(H=2, G=2, R=8, S=8, C=2, norm=True)):
        layer = example_layer(**sizes)
        rows = example_rows(layer, 2 * layer.chunk_size + 1)
        expected, state = scanned(layer, rows), SlotState.alloc(layer, 1, torch.float32, "cpu")
        for t, row in enumerate(rows):
            assert torch.equal(decode(layer, state, [row], [0])[0], expected[t]), (sizes, t)


@needs_goldens
@pytest.mark.parametrize("name", ["layer_siso_norm_rope1", "layer_mimo4_softplus"])
def test_golden_steps(name: str) -> None:
    """u through in_proj, decode and out_proj against the public layer's own steps; one row of the batch."""
    layer, p, golden = golden_layer(name)
    rows = (golden["u"][:1] @ p["in_proj.weight"].T).detach()
    state = SlotState.alloc(layer, len(rows), torch.float32, "cpu")
    slots = list(range(len(rows)))
    outs = [
        decode(layer, state, list(rows[:, t]), slots).flatten(1) @ p["out_proj.weight"].T for t in range(rows.shape[1])
    ]
    assert error(torch.stack(outs, dim=1), golden["step_out"][:1]) < 2e-5


def test_the_result_may_be_given() -> None:
    layer = example_layer(C=C)
    rows, out = example_rows(layer, 1), torch.full((1, 2, 16), 7.0)
    state = SlotState.alloc(layer, 1, torch.float32, "cpu")
    assert mamba3_decode(rows, layer, state, torch.tensor([0], dtype=torch.int32), out) is out
    assert torch.equal(out, scanned(layer, rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": lambda x: x[:, :-1]}, r"^projection: shape \[2, \d+\] came, \[n, \d+\] = \[2, \d+\] wanted|^projection: shape"),
        ({"rows": lambda x: x.double()}, r"^v: torch.float64 came"),
        ({"rows": lambda x: x.bfloat16()}, r"^state: slots of torch.float32, C = 3, .* came, those of the layer wanted"),
        ({"rows": lambda x: x.T.contiguous().T}, r"^projection: stride 2 of the last dimension came, 1 wanted"),
        ({"slots": torch.tensor([0, 1])}, r"^slots: torch.int64 \[2\] came, torch.int32 \[2\] wanted"),
        ({"slots": torch.tensor([0], dtype=torch.int32)}, r"^slots: torch.int32 \[1\] came"),
        ({"slots": torch.tensor([0, 2], dtype=torch.int32)}, r"^slots: 2 came, -1 to 1 wanted"),
        ({"layer": {"a_activation": "relu"}}, r"^a_activation: 'relu' came, one of softplus, heavy_tail wanted"),
        ({"layer": {"chunk_size": 4}}, r"^state: slots of torch.float32, C = 3"),
    ],
)  # fmt: skip
def test_wrong_arguments(change: dict, message: str) -> None:
    layer = example_layer(C=C)
    state = SlotState.alloc(layer, 2, torch.float32, "cpu")
    rows = change.get("rows", lambda x: x)(example_rows(layer, 2))
    slots = change.get("slots", torch.tensor([0, 1], dtype=torch.int32))
    with pytest.raises(ValueError, match=message):
        mamba3_decode(rows, layer._replace(**change.get("layer", {})), state, slots)


@needs_goldens
@pytest.mark.parametrize("name", LAYERS)
def test_golden_layers(name: str) -> None:
    """Forward and every gradient of the layer: in_proj, scan_from_projection, out_proj."""
    layer, p, golden = golden_layer(name)
    u = golden["u"].clone().requires_grad_()
    out, _ = scan_from_projection(u @ p["in_proj.weight"].T, layer, cu_seqlens=golden.get("cu_seqlens"))
    out = out.flatten(-2) @ p["out_proj.weight"].T
    assert error(out, golden["out"]) < 2e-5
    gradients = torch.autograd.grad((out * golden["dout"]).sum(), [u, *p.values()])
    expected = [golden["g_u"], *(golden[f"g_param.{key}"] for key in p)]
    for key, x, y in zip(["u", *p], gradients, expected, strict=True):
        assert error(x, y) < 1e-4, key
