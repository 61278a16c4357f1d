"""What the launch-table rows of the tile kernels compile to: scan forward and backward, replay and recurrent step."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from . import backward_chunk, backward_output, decode, projection, recurrent, scan_tiles
from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch
from .scan_forward import PREFIX_HEADS, STATE_BLOCK

HEADS = 64  # of the model that rows are compiled for; G = 1, the tile has 64 rows, half of N is rotated
HALVES = {
    "p_q", "p_k", "p_v", "p_x", "p_z", "p_b", "p_c", "p_angle", "p_read", "p_out", "p_keys", "p_ring_k", "p_ring_x", "p_ring_b",
    "p_ring_angle",
}  # fmt: skip
NUMBERS = {"p_tiles", "p_sequences", "p_ends", "p_slots", "p_position"}


def _sizes(row: Launch) -> dict[str, Any]:
    N, P, R = row.shape["N"], row.shape["P"], row.shape["R"]
    L = max(64, R)
    return dict(
        H=HEADS, G=1, R=R, N=N, P=P, S=N // 4, C=L // R, L=L, tokens=L // R, HALF=R > 1, MIMO=R > 1, NORM=False, START=False, KEEP=False,
        DT=tl.bfloat16 if row.dtype == "bf16" else tl.float32, COPY=row.dtype == "bf16", HEAVY=True, FLOOR=1e-4, EPS=1e-5,
        BLOCK=min(STATE_BLOCK, P), SOURCE=0, SLOTS=True, HEADS=PREFIX_HEADS,
    )  # fmt: skip


def _variant(label: str, function: Any, row: Launch, halves: set[str], products: bool, **more: Any) -> Variant:
    sizes = _sizes(row) | more.pop("sizes", {})
    names = function.arg_names
    constants = {name: sizes[name] for name in names if name in sizes}
    absent = [n for n in names if (n.startswith("p_mimo") and row.shape["R"] == 1) or n in ("p_norm", "p_start")]
    constants |= dict.fromkeys(absent)
    types = {}
    for name in names:
        if name.startswith("s_"):
            types[name] = "i32"
        else:
            types[name] = "*i32" if name in NUMBERS else POINTERS[row.dtype] if name in halves else "*fp32"
    products = products and row.dtype == "bf16"
    return Variant(label, function, types, constants, tensor_cores=products, fused=False, **more)


def _forward(row: Launch) -> list[Variant]:
    return [
        _variant("scan prefix", scan_tiles.prefix_kernel, row, HALVES, False, warps=4),
        _variant("scan increment", scan_tiles.increment_kernel, row, HALVES, True),
        _variant("scan state pass", scan_tiles.state_pass_kernel, row, HALVES, False, warps=4),
        _variant("scan output", scan_tiles.output_kernel, row, HALVES | {"p_g"}, True),
        _variant("scan walk", scan_tiles.walk_kernel, row, HALVES, True, may_spill=True),
    ]


def _backward(row: Launch) -> list[Variant]:
    sizes = dict(HEADS=8, FINAL=True)
    kernels = [
        ("scan back, output", backward_output.output_kernel, {}),
        ("scan back, entry", backward_output.entry_kernel, {}),
        ("scan back, values", backward_chunk.values_kernel, {}),
        ("scan back, queries", backward_chunk.rows_kernel, {"KEYS": False}),
        ("scan back, keys", backward_chunk.rows_kernel, {"KEYS": True}),
    ]
    return [
        _variant(label, function, row, set(), False, sizes=sizes | more, may_spill=True)
        for label, function, more in kernels
    ]


def _scan(row: Launch) -> list[Variant]:
    return _forward(row) if row.direction == "forward" else _backward(row)


def _replay(row: Launch) -> list[Variant]:
    logits = {"p_dt", "p_a", "p_trap"}
    return [
        _variant("replay step", decode.replay_kernel, row, HALVES | logits, True),
        _variant("norm of B and C", projection.norm_kernel, row, HALVES, False),
    ]


def _recurrent(row: Launch) -> list[Variant]:
    halves = (HALVES | {"p_dt", "p_a", "p_trap"}) - {"p_k", "p_v"}  # the state's k and v are fp32
    return [_variant("recurrent step", recurrent.recurrent_kernel, row, halves, True, may_spill=True)]


announce("scan", _scan)
announce("replay", _replay)
announce("recurrent", _recurrent)
