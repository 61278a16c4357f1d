"""`mimosa bench kernels`: the Mamba-3 kernels at 1.5B shapes on a GPU, each beside its floor."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels.decode import mamba3_decode
from ..kernels.dispatch import linear_logprob, mamba3_scan
from ..kernels.fixed_matmul import fixed_matmul
from ..kernels.projection import Layer
from ..kernels.recurrent import mamba3_recurrent
from ..kernels.slot_state import SlotState
from ..kernels.tensors import State, Weights
from .agreement import bench_agreement
from .record import Figure, append, figure, show
from .timing import copy_bandwidth, gpu_times, graphed, matmul_rate, peak_memory

H, P, N, S, D_MODEL, VOCAB = 64, 64, 128, 32, 2048, 128_256  # the 1.5B model; G = 1


@dataclass(frozen=True, slots=True)
class Rates:
    """What the floors are made of."""

    copy: float  # bytes per second
    matmul: float  # bf16 FLOP per second


def scan_inputs(rank: int, batch: int, length: int, grad: bool) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Random bf16 operands of one layer's scan; rank 1 is SISO."""
    made = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", generator=made).to(dtype).requires_grad_(grad)

    mimo = rank > 1
    qk = (batch, length, rank, 1, N) if mimo else (batch, length, 1, N)
    bias = (H, rank, N) if mimo else (H, N)
    dt = (torch.rand(batch, H, length, device="cuda", generator=made) * 0.1 + 1e-3).requires_grad_(grad)
    adt = (-dt.detach() * (torch.rand(batch, H, length, device="cuda", generator=made) + 0.5)).requires_grad_(grad)
    wide = torch.float32
    operands = [
        normal(*qk), normal(*qk), normal(batch, length, H, P), normal(batch, length, H, P), adt, dt,
        normal(batch, H, length, dtype=wide), normal(batch, length, 1, S, dtype=wide),
        normal(*bias, dtype=wide), normal(*bias, dtype=wide), normal(H, dtype=wide),
    ]  # fmt: skip
    ranks = {f"mimo_{name}": normal(H, rank, P, dtype=wide) for name in "xzo"} if mimo else {}
    return operands, {**ranks, "pairing": "half" if mimo else "interleaved", "backend": "triton"}


def scan_flops(rank: int, tokens: int) -> float:
    """Products of the chunked forward pass: inside a tile, state write and state read, for all heads."""
    rows, tile = tokens * rank, 64
    return 2.0 * H * rows * (tile * (N + P) + 2 * N * P)


def scan_bytes(rank: int, tokens: int) -> float:
    """Operands read and output written once, bf16; scalars fp32."""
    return tokens * (2 * (2 * rank * N) + 3 * 2 * H * P + 3 * 4 * H + 4 * S)


def bench_prefill(rates: Rates) -> Iterator[Figure]:
    """Forward pass of one layer's scan with its final state, 128 sequences of 2048 tokens."""
    batch, length = 128, 2048
    for rank, kind in ((1, "SISO"), (4, "MIMO R=4")):
        operands, how = scan_inputs(rank, batch, length, grad=False)
        with torch.no_grad():
            times = gpu_times(lambda o=operands, h=how: mamba3_scan(*o, **h, return_state=True), 10, 3)  # type: ignore[misc]
        floor = 1e3 * max(
            scan_bytes(rank, batch * length) / rates.copy, scan_flops(rank, batch * length) / rates.matmul
        )
        yield figure("prefill, one layer's scan", f"{kind}, {batch} x {length}, bf16", "ms", times, floor)
        del operands, how


def bench_training(rates: Rates) -> Iterator[Figure]:
    """Forward and backward of one layer's scan, 8 sequences of 4096 tokens."""
    batch, length = 8, 4096
    for rank, kind in ((1, "SISO"), (4, "MIMO R=4")):
        operands, how = scan_inputs(rank, batch, length, grad=True)
        leaves = [*operands, *(x for x in how.values() if isinstance(x, torch.Tensor))]
        dout = torch.randn(batch, length, H, P, device="cuda", dtype=torch.bfloat16)

        def both(o: Any = operands, h: Any = how, leaves: Any = leaves, dout: Any = dout) -> None:
            torch.autograd.grad(mamba3_scan(*o, **h), leaves, dout)

        floor = 1e3 * max(
            3 * scan_bytes(rank, batch * length) / rates.copy, 3 * scan_flops(rank, batch * length) / rates.matmul
        )
        yield figure(
            "scan forward + backward", f"{kind}, {batch} x {length}, bf16", "ms", gpu_times(both, 10, 3), floor
        )
        forward = gpu_times(lambda o=operands, h=how: mamba3_scan(*o, **h), 10, 3)  # type: ignore[misc]
        yield figure("scan forward, saving for backward", f"{kind}, {batch} x {length}, bf16", "ms", forward)


def bench_logprob(rates: Rates) -> Iterator[Figure]:
    """Linear-logprob forward and backward at 16k tokens, against full logits and log_softmax by cuBLAS in the same run."""
    tokens = 16_384
    hidden = torch.randn(tokens, D_MODEL, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(VOCAB, D_MODEL, device="cuda", dtype=torch.bfloat16) * 0.02).requires_grad_()
    targets = torch.randint(0, VOCAB, (tokens,), device="cuda")

    def ours() -> None:
        logprobs, entropy = linear_logprob(hidden, weight, targets, backend="triton")
        torch.autograd.grad((logprobs + entropy).sum(), (hidden, weight))

    def full() -> None:
        log_p = F.linear(hidden, weight).float().log_softmax(-1)
        torch.autograd.grad(log_p.gather(-1, targets[:, None]).sum(), (hidden, weight))

    setting = f"{tokens} tokens, V {VOCAB}, bf16"
    peer = figure("logits + log_softmax, cuBLAS", setting, "ms", gpu_times(full, 5, 2))
    yield peer
    floor = 1e3 * 4 * 2 * tokens * VOCAB * D_MODEL / rates.matmul
    times = gpu_times(ours, 5, 2)
    yield figure("linear-logprob forward + backward", setting, "ms", times, floor, f"peer in this run {peer.median} ms")
    whole = tokens * VOCAB * 4
    returned = (hidden.numel() + weight.numel()) * 2  # the gradients, which every way of computing them needs
    note = f"{(peak_memory(ours) - returned) / whole:.3f} beyond the gradients it returns; cuBLAS path {peak_memory(full) / whole:.2f}"
    yield figure("linear-logprob peak memory", setting, "of fp32 logits", [peak_memory(ours) / whole], note=note)


def decode_layer(rank: int) -> Layer:
    """Random parameters of one 1.5B layer; fp32."""
    made = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", generator=made)

    mimo = [normal(H, rank, P) if rank > 1 else None for _ in range(3)]
    weights = Weights(normal(H, rank, N), normal(H, rank, N), normal(H), *mimo, None)
    pairing = "half" if rank > 1 else "interleaved"
    return Layer(weights, normal(N), normal(N), normal(H) - 1, 1, P, S, pairing, 64 // rank)  # type: ignore[arg-type]


def bench_decode(rates: Rates) -> Iterator[Figure]:
    """One layer's step between the projections, recurrent and replay, as CUDA graphs; replay averaged over a whole chunk."""
    for rank, kind in ((1, "SISO"), (4, "MIMO R=4")):
        layer = decode_layer(rank)
        for batch in (128, 512):
            rows = torch.randn(batch, sum(layer.widths), device="cuda").bfloat16()
            slots = torch.arange(batch, dtype=torch.int32, device="cuda")
            out = torch.empty(batch, H, P, device="cuda", dtype=torch.bfloat16)
            setting = f"{kind}, batch {batch}, bf16"
            zeros = [torch.zeros(batch, *shape, device="cuda") for shape in ((H, S), (H, P, N), (rank, H, N), (H, P))]
            state = State(*zeros)
            step = graphed(lambda r=rows, y=layer, s=state, n=slots, o=out: mamba3_recurrent(r, y, s, n, o))  # type: ignore[misc]
            moved = 1.0 * batch * (8 * H * P * N + 4 * rows.shape[1])
            recurrent = figure("recurrent step, one layer", setting, "ms", gpu_times(step), 1e3 * moved / rates.copy)
            yield recurrent
            pool = SlotState.alloc(layer, batch, torch.bfloat16, "cuda")

            pool.position.copy_(torch.arange(batch, device="cuda") % layer.chunk_size)  # as in a running engine

            def chunk(r: Any = rows, y: Any = layer, p: Any = pool, n: Any = slots, o: Any = out) -> None:
                for _ in range(y.chunk_size):
                    mamba3_decode(r, y, p, n, o)
                    p.advance(n)

            times = [t / layer.chunk_size for t in gpu_times(graphed(chunk), 10, 2)]
            moved = batch * replay_bytes(rank, layer.chunk_size)
            sum_up = f"{recurrent.median / statistics.median(times):.2f}x the recurrent step of this run"
            yield figure("replay step, one layer", setting, "ms", times, 1e3 * moved / rates.copy, sum_up)
            yield bench_layer_step(rates, layer, pool, setting)


def replay_bytes(rank: int, chunk: int) -> float:
    """Of one slot and layer at a step, averaged over a chunk: the state as it is read, half a ring, and a flush's share."""
    ring = 0.5 * chunk * (2 * rank * N + 2 * P + 4 * 3)
    flush = (8 + 2) * P * N / chunk + (2 * rank * N + 2 * P)
    return H * (2 * P * N + ring + flush)


def bench_layer_step(rates: Rates, layer: Layer, pool: SlotState, setting: str) -> Figure:
    """One layer's step from in_proj to out_proj in replay mode, as a CUDA graph of a whole chunk."""
    batch, width = pool.slots, sum(layer.widths)
    x = torch.randn(batch, D_MODEL, device="cuda").bfloat16()
    w_in, w_out = (torch.randn(n, k, device="cuda").bfloat16() * 0.02 for n, k in ((width, D_MODEL), (D_MODEL, H * P)))
    slots = torch.arange(batch, dtype=torch.int32, device="cuda")

    def chunk() -> None:
        for _ in range(layer.chunk_size):
            rows = mamba3_decode(fixed_matmul(x, w_in), layer, pool, slots)
            fixed_matmul(rows.flatten(1), w_out)
            pool.advance(slots)

    times = [t / layer.chunk_size for t in gpu_times(graphed(chunk), 10, 2)]
    moved = batch * replay_bytes(layer.sizes.R, layer.chunk_size) + 2 * D_MODEL * (width + H * P)
    return figure("layer step, in_proj to out_proj, replay", setting, "ms", times, 1e3 * moved / rates.copy)


SECTIONS = {
    "agreement": bench_agreement,
    "decode": bench_decode,
    "prefill": bench_prefill,
    "training": bench_training,
    "logprob": bench_logprob,
}


def run(sections: list[str], save: bool = True) -> list[Figure]:
    """Measure the sections (all of them when the list is empty), print each figure and append it to the results."""
    if not torch.cuda.is_available():
        raise ValueError("bench kernels: got no CUDA device, wanted one: these figures are a GPU's")
    if unknown := set(sections) - SECTIONS.keys():
        raise ValueError(f"bench kernels: got {', '.join(sorted(unknown))}, wanted some of {', '.join(SECTIONS)}")
    rates = Rates(copy_bandwidth(), matmul_rate())
    print(f"copy {rates.copy / 1e12:.2f} TB/s, bf16 matmul {rates.matmul / 1e12:.0f} TFLOP/s", flush=True)
    found = []
    for name in sections or list(SECTIONS):
        for one in SECTIONS[name](rates):
            print(show(one), flush=True)
            found.append(one)
        torch.cuda.empty_cache()
    if save:
        append(found)
    return found
