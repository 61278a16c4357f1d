"""The report runs in a process of its own: it compiles, and this process may interpret."""

import os
import subprocess
import sys

import pytest

from mimosa.kernels.kernel_registry import announced
from mimosa.kernels.launch_table import rows
from mimosa.kernels.resource_report import SHARED_LIMIT, Resources

SECONDS = 200


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "mimosa.kernels.resource_report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)


def table(text):
    """The lines of the report: label, target, dtype, shape, registers, stack, spills, shared bytes, tensor-core instructions."""
    found = []
    for line in text.splitlines()[1:-1]:
        label, rest = line[:26].strip(), line[26:].split()
        found.append((label, rest[0], rest[1], " ".join(rest[2:-5]), *map(int, rest[-5:])))
    return found


@pytest.mark.parametrize(
    ("kernel", "target", "dtype"),
    [
        ("fixed_matmul", "90", "bf16"), ("linear_logprob", "90", "bf16"), ("fixed_matmul", "100", "fp32"),
        ("replay", "90", "bf16"), pytest.param("replay", "100", "bf16", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_nothing_spills(kernel, target, dtype):
    done = run(kernel, "--target", target, "--dtype", dtype)
    assert done.returncode == 0, done.stdout + done.stderr
    found = table(done.stdout)
    wanted = [r for r in rows() if (r.kernel, r.arch, r.dtype) == (kernel, f"sm_{target}", dtype)]
    assert len(found) == sum(len(announced()[kernel](row)) for row in wanted) > 0
    for label, arch, came, _, registers, stack, spills, shared, mma in found:
        assert (arch, came) == (f"sm_{target}", dtype)
        assert 16 <= registers <= 255 and stack == spills == 0 and shared <= SHARED_LIMIT[int(target)]
        multiplies = label in ("fixed_matmul", "logprob splits", "logprob gradient", "replay step")
        assert (mma > 0) == (multiplies and dtype == "bf16")


@pytest.mark.parametrize("kernel", ["recurrent", pytest.param("scan", marks=pytest.mark.slow)])
def test_what_spills_is_known(kernel):
    """No more than its row says, and of the scan only the kernel that walks; it was measured to be worth it."""
    done = run(kernel, "--target", "90", "--dtype", "bf16")
    assert done.returncode == 0, done.stdout + done.stderr
    known = {r.spills for r in rows() if (r.kernel, r.arch, r.dtype) == (kernel, "sm_90", "bf16")}
    for label, _, _, _, _, _, spills, _, _ in table(done.stdout):
        assert spills == 0 or (label in ("scan walk", "recurrent step") and spills <= max(known))


def resources(**change):
    good = dict(kernel="k", label="k", target=90, dtype="bf16", shape="", registers=99, stack=0, spills=0)
    return Resources(**(good | dict(shared=SHARED_LIMIT[90], mma=4, wants_mma=True) | change))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        (dict(wants_mma=False, mma=0), None),
        (dict(spills=3), "3 spill instructions"),
        (dict(stack=8), "8 B stack"),
        (dict(shared=SHARED_LIMIT[90] + 1), "232449 B shared memory, limit 232448"),
        (dict(mma=0), "no tensor-core instruction"),
    ],
)
def test_faults(change, fault):
    assert resources(**change).faults == ([fault] if fault else [])


# A kernel that keeps 256 numbers a thread alive must be found out.
GREEDY = """
import sys, triton, triton.language as tl
from mimosa.kernels import kernel_registry, launch_table, resource_report
from mimosa.kernels.launch_table import Launch

@triton.jit
def greedy(p_x, B: tl.constexpr):
    o = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    b_x = tl.load(p_x + o)
    b_y = b_x
    for _ in range(9):
        b_y = b_y * b_x + tl.sum(b_y, 1)[:, None]
    tl.store(p_x + o, b_y)

resource_report.rows = lambda: (Launch("greedy", "sm_90", "forward", "fp32", {}, {"B": 128}, 2, 1, ""),)
variant = kernel_registry.Variant("greedy", greedy, {"p_x": "*fp32"}, {"B": 128})
resource_report.announced = lambda: {"greedy": lambda row: [variant]}
sys.exit(resource_report.main(["--target", "90"]))
"""


def test_a_kernel_that_spills_fails(tmp_path):
    script = tmp_path / "greedy.py"
    script.write_text(GREEDY)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=SECONDS, env=environment
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (found,) = table(done.stdout.replace("  <- ", "  #").split("#")[0] + "\n\n")
    assert found[0] == "greedy" and found[5] > 0 and found[6] > 0
    assert "1 variants, 1 at fault" in done.stdout


def test_an_unknown_kernel_is_refused():
    done = run("fixed_matmull")
    assert done.returncode != 0 and "kernel: 'fixed_matmull' came" in done.stderr
