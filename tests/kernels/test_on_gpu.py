"""The compiled kernels on a GPU: against the goldens, the fp64 reference, and themselves across batch sizes, bit for bit."""

from __future__ import annotations

import pytest
import torch
from goldens import angle_error, case, error, load, names, needs_goldens
from projected import example_layer, example_rows
from recurrence import FIELDS, TOKENS, example

from mimosa.kernels.decode import mamba3_decode
from mimosa.kernels.dispatch import mamba3_scan
from mimosa.kernels.fixed_matmul import fixed_matmul
from mimosa.kernels.linear_logprob_triton import linear_logprob_triton, sample_logprob_triton
from mimosa.kernels.projection import Layer, scan_from_projection
from mimosa.kernels.slot_state import SlotState
from mimosa.kernels.tensors import Weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
INPUTS = (*TOKENS, "q_bias", "k_bias", "D", "mimo_x", "mimo_z", "mimo_o", "norm_w")
SCANS = [*names("siso_*"), *names("mimo_*")]


def run_golden(name: str):
    golden = {key: x.cuda() for key, x in load(name).items()}
    leaves = {key: golden[key].float().requires_grad_() for key in INPUTS if key in golden}
    arguments = {("norm_weight" if key == "norm_w" else key): x for key, x in leaves.items()}
    state = None
    if "in_h" in golden:
        leaves |= {f"in_{field}": golden[f"in_{field}"].float().requires_grad_() for field in FIELDS}
        state = tuple(leaves[f"in_{field}"] for field in FIELDS)
    out, end = mamba3_scan(
        **arguments, pairing=case("scan", name)["pairing"], cu_seqlens=golden.get("cu_seqlens"), initial_state=state,
        return_state=True, backend="triton",
    )  # fmt: skip
    return golden, leaves, out, end


@needs_goldens
@pytest.mark.parametrize("name", SCANS)
def test_goldens_in_fp32(name):
    golden, leaves, out, end = run_golden(name)
    assert error(out, golden["out"]) < 2e-5
    for field, x in zip(FIELDS, end, strict=True):
        assert (angle_error if field == "theta" else error)(x, golden[f"fin_{field}"]) < 2e-5, field
    if "g_q" not in golden:
        return
    loss = (out * golden["dout"]).sum()
    for key, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        expected = golden[f"g_{key}"]
        if expected.abs().max() > 1e-8:
            assert error(gradient, expected) < 1e-4, key


@pytest.mark.parametrize("R", [0, 2, 4], ids=["siso", "R=2", "R=4"])
def test_bf16_at_the_shapes_of_a_real_layer(R):
    """N = 128, P = 64, packed sequences over several tiles; against the fp64 reference on the same rounded numbers."""
    T, H, bounds = 301, 4, torch.tensor([0, 1, 130, 301], dtype=torch.int32)
    arguments = example(3, T=T, H=H, N=128, P=64, R=R, S=32, shared_angles=True)
    low = {"q", "k", "v", "z"}
    rounded = {n: x.bfloat16() if n in low else x.float() for n, x in arguments.items()}
    exact = {n: x.double().requires_grad_() for n, x in rounded.items()}
    ours = {n: x.cuda().requires_grad_() for n, x in rounded.items()}
    how = dict(pairing="half" if R else "interleaved", cu_seqlens=bounds)
    expected = mamba3_scan(**exact, **how, backend="reference")
    out = mamba3_scan(**ours, **how, backend="triton")
    assert error(out.cpu(), expected) < 1e-2
    dout = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.autograd.grad(expected, list(exact.values()), dout)
    found = torch.autograd.grad(out, list(ours.values()), dout.to(out.dtype).cuda())
    for name, a, b in zip(exact, found, wanted, strict=True):
        assert error(a.cpu(), b) < 3e-2, name


def test_scan_rows_do_not_depend_on_their_neighbours():
    arguments = {n: x.cuda() for n, x in example(5, T=150, H=4, N=128, P=64, R=4, S=32, dtype=torch.float32).items()}
    for name in ("q", "k", "v", "z"):
        arguments[name] = arguments[name].bfloat16()
    how = dict(pairing="half", backend="triton")
    packed = mamba3_scan(**arguments, **how, cu_seqlens=torch.tensor([0, 37, 150], dtype=torch.int32))
    time_last = {"adt", "dt", "trap"}
    tail = {n: x[..., 37:] if n in time_last else x[:, 37:] if n in TOKENS else x for n, x in arguments.items()}
    assert torch.equal(mamba3_scan(**tail, **how)[0], packed[0, 37:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("K", "N"), [(2048, 8672), (4096, 2048), (64, 100)])
def test_matmul_rows_are_the_same_at_every_batch_size(dtype, K, N):
    torch.manual_seed(0)
    x, w = torch.randn(513, K, device="cuda").to(dtype), torch.randn(N, K, device="cuda").to(dtype)
    whole = fixed_matmul(x, w)
    assert error(whole.cpu(), x.cpu().double() @ w.cpu().double().T) < (2e-5 if dtype == torch.float32 else 1e-2)
    for m in (1, 2, 17, 64, 128, 200):
        assert torch.equal(fixed_matmul(x[:m], w), whole[:m]), m


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_drawn_tokens_logprob_is_the_learners(dtype):
    torch.manual_seed(0)
    hidden = torch.randn(300, 256, device="cuda").to(dtype)
    weight = (torch.randn(5003, 256, device="cuda") * 0.1).to(dtype)
    keys, positions = torch.arange(300, device="cuda"), torch.arange(300, device="cuda") % 7
    seed = torch.tensor([9], device="cuda")
    tokens, drawn = sample_logprob_triton(hidden, weight, seed=seed, keys=keys, positions=positions, temperature=0.7)
    learned = linear_logprob_triton(hidden, weight, tokens, 0.7).logprob
    assert torch.equal(drawn, learned)
    exact = (hidden.double() @ weight.double().T / 0.7).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert (drawn - exact).abs().max() < (1e-4 if dtype == torch.float32 else 3e-2)
    for rows in (1, 5, 64):
        part = sample_logprob_triton(
            hidden[:rows], weight, seed=seed, keys=keys[:rows], positions=positions[:rows], temperature=0.7
        )
        assert torch.equal(part[0], tokens[:rows]) and torch.equal(part[1], drawn[:rows])


def layer_on_gpu(R: int, C: int, H: int = 4, norm: bool = False) -> Layer:
    """A layer of the 1.5B model's widths, MIMO when R > 1; fp32 parameters."""
    layer = example_layer(H=H, N=128, P=64, R=R, S=32, C=C, norm=norm, pairing="half" if R > 1 else "interleaved")
    weights = Weights(*(x if x is None else x.cuda() for x in layer.weights))
    return layer._replace(weights=weights, **{n: getattr(layer, n).cuda() for n in ("b_norm", "c_norm", "dt_bias")})


@pytest.mark.parametrize("norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("walked", [False, True], ids=["at_once", "walked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("R", "C"), [(1, 64), (2, 32), (4, 16), (8, 8)], ids=str)
def test_a_decoded_row_has_the_bits_of_the_scans_row(R, C, dtype, walked, norm, monkeypatch):
    """Two sequences that start apart, over more than two chunks each, at every position."""
    monkeypatch.setattr("mimosa.kernels.scan_forward.WALKS", 1 if walked else 10**6)
    layer = layer_on_gpu(R, C, norm=norm)
    one, other = (example_rows(layer, 2 * C + 4, seed=s).cuda().to(dtype) for s in (2, 3))
    expected = [scan_from_projection(rows.unsqueeze(0), layer)[0][0] for rows in (one, other)]
    state = SlotState.alloc(layer, 3, dtype, "cuda")
    slots = torch.tensor([2, 0], dtype=torch.int32, device="cuda")
    both = torch.tensor([2, -1], dtype=torch.int32, device="cuda")
    different = 0
    for t in range(2 * C + 4):
        late = t - 5
        numbers = slots if late >= 0 else both
        out = mamba3_decode(torch.stack([one[t], other[max(late, 0)]]), layer, state, numbers)
        state.advance(numbers)
        different += not torch.equal(out[0], expected[0][t])
        different += late >= 0 and not torch.equal(out[1], expected[1][late])
    assert different == 0, f"{different} rows differ"
