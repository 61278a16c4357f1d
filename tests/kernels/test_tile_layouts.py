"""What the interpreter cannot show of bit equality: no sum of a tile outside of its products has an order that a layout decides.

Compiled for sm_90 in bf16 at the 1.5B model's sizes: the scan's and the decode's tiles hold no prefix sum and no reduction but the norm
of B and C, which stands with one layout in the decode and in the kernel that norms for the scan.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECONDS = 220
SCRIPT = """
import re, sys
from mimosa.kernels import resource_report
from mimosa.kernels.kernel_registry import announced
from mimosa.kernels.launch_table import lookup

def orders(text):
    names = dict(re.findall(r"^(#\\w+) = (#\\w+(?:\\.\\w+)*<.*>)\\s*$", text, re.M))
    def spelled(types):
        for _ in range(4):
            types = re.sub(r"#\\w+\\b(?![.<])", lambda m: names.get(m[0], m[0]), types)
        return re.sub(r" loc\\(.*", "", types).strip()
    lines = text.splitlines()
    return [(op, spelled(next(x for x in lines[i:] if "}) :" in x).split("}) :")[1]))
            for i, line in enumerate(lines) for op in ("tt.scan", "tt.reduce") if f'"{op}"' in line]

R = int(sys.argv[1])
for kernel, direction in (("scan", "forward"), ("replay", "step")):
    row = lookup(kernel, direction, "bf16", "sm_90", N=128, P=64, R=R)
    for variant in announced()[kernel](row):
        if variant.label in ("scan state pass", "scan walk"):
            continue
        for op, types in orders(resource_report.compile_variant(variant, row, 90).asm["ttgir"]):
            print(variant.label, "|", op, "|", types)
"""


@pytest.mark.parametrize("R", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_sums_have_one_order(R: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(R)], capture_output=True, text=True, timeout=SECONDS, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line.split(" | ") for line in done.stdout.splitlines()]
    assert {label for label, _, _ in found} == {"replay step", "norm of B and C"}, done.stdout
    assert {op for _, op, _ in found} == {"tt.reduce"}
    step, norm = ([types for label, _, types in found if label == name] for name in ("replay step", "norm of B and C"))
    assert len(step) == len(norm) == 2 and {*step} == {*norm}, done.stdout  # of B and of C
