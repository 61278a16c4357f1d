"""What the interpreter cannot show of bit equality: the compiled scan and decode sum in one order.

Both are compiled for sm_90 in bf16 at the 1.5B model's sizes. Every prefix sum, reduction and dot of the decode must stand, with the
same layouts and shapes, in one of the scan's kernels: the layout decides in which order a thread adds. And nothing may spill.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECONDS = 220
SCRIPT = """
import re, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mimosa.kernels import decode, projection, resource_report, scan_forward, tile_table
from mimosa.kernels.kernel_registry import Variant
from mimosa.kernels.launch_table import Launch

R, N, P, S = int(sys.argv[1]), 128, 64, 32
HALVES = ("p_q", "p_k", "p_v", "p_x", "p_z", "p_b", "p_c", "p_a", "p_angle", "p_read", "p_out", "p_ring_k", "p_ring_x",
          "p_ring_angle", "p_b_norm", "p_c_norm")
SIZES = dict(H=64, G=1, R=R, N=N, P=P, S=S, C=64 // R, L=64, tokens=64 // R, HALF=R > 1, MIMO=R > 1, NORM=True, DT=tl.bfloat16,
             HEAVY=True, FLOOR=1e-4, EPS=1e-5, COPY=True, s_angle=S)
KERNELS = dict(scalars=scan_forward.scalars_kernel, increment=scan_forward.increment_kernel, output=scan_forward.output_kernel,
               norm=projection.norm_kernel, replay=decode.replay_kernel)

def argument(kernel, name):
    if name.startswith("s_"):
        return "i32"
    if name in ("p_tiles", "p_slots", "p_position"):
        return "*i32"
    logits = name in ("p_dt", "p_trap") and kernel == "replay"
    states = name == "p_g" and kernel == "output"
    return "*bf16" if name in HALVES or logits or states else "*fp32"

def orders(text):
    names = dict(re.findall(r"^(#\\w+) = (#\\w+(?:\\.\\w+)*<.*>)\\s*$", text, re.M))
    def spelled(types):
        for _ in range(4):
            types = re.sub(r"#\\w+\\b(?![.<])", lambda m: names.get(m[0], m[0]), types)
        return re.sub(r" loc\\(.*", "", types).strip()
    lines, found = text.splitlines(), []
    for i, line in enumerate(lines):
        for op in ('"tt.scan"', '"tt.reduce"'):
            if op in line:
                found.append((op, spelled(next(x for x in lines[i:] if "}) :" in x).split("}) :")[1])))
        if "warp_group_dot " in line:
            found.append(("dot", spelled(line.split(" : ", 1)[1])))
    return found

options = tile_table.launch_options(N, P, 64)
row = Launch("tile", "sm_90", "forward", "bf16", {}, {}, options["num_warps"], options["num_stages"], "")
found = {}
for kernel, function in KERNELS.items():
    constants = {name: value for name, value in SIZES.items() if name in function.arg_names}
    constants |= {name: None for name in function.arg_names if R == 1 and name.startswith("p_mimo")}
    signature = {name: argument(kernel, name) for name in function.arg_names if name not in constants}
    variant = Variant(kernel, function, signature, constants)
    found[kernel] = orders(resource_report.compile_variant(variant, row, 90).asm["ttgir"])
    r = resource_report.measure(variant, row, 90)
    print(kernel, r.registers, r.stack, r.spills, r.shared, r.mma)
replay = found.pop("replay")
scan = {x for kernel in found.values() for x in kernel}
print("orders", len(replay), len(set(replay) - scan))
for x in set(replay) - scan:
    print("only in the decode:", *x)
"""


@pytest.mark.parametrize("R", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_decode_and_scan_sum_in_one_order(R: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_DEFAULT_FP_FUSION"] = "0"  # as the launch options have it
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(R)], capture_output=True, text=True, timeout=SECONDS, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    resources = {line[0]: [int(x) for x in line[1:]] for line in lines if line[0] != "only"}
    count, different = resources.pop("orders")
    assert different == 0, done.stdout
    assert count >= 12  # two prefix sums and their last entries twice, two norms and the output's, four dots
    assert set(resources) == {"scalars", "increment", "output", "norm", "replay"}
    for kernel, (registers, stack, spills, shared, mma) in resources.items():
        assert registers <= 255 and stack == spills == 0 and shared <= 64 << 10, (
            kernel,
            registers,
            stack,
            spills,
            shared,
        )
        assert (mma > 0) == (kernel in ("increment", "output", "replay"))
