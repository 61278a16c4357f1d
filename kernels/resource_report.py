"""What every kernel and launch-table row needs on a GPU, found by compiling it where there is none.

`python -m mimosa.kernels.resource_report` prints the table and exits with 1 where a row is at fault.

Registers and stack come from the cubin's resource usage, spills from the local-memory instructions in its machine code, shared
memory from the compiler. A row fails that spills, has a stack, wants more shared memory than a block may have, or does not put its
products on the tensor cores where it must. The verdict holds for the Triton that is installed; it says nothing about time.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kernel_registry import Variant, announced
from .launch_table import Launch, rows

SHARED_LIMIT = {
    80: 166_912,
    86: 101_376,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
}  # bytes a block
TARGETS = (90, 100)
MMA = ("HGMMA", "UTCHMMA", "HMMA")  # tensor-core instructions of sm_90, sm_100 and before
TOOL_SECONDS = 120
LINE = "{:<26} {:<6} {:<5} {:<28} {:>4} {:>5} {:>5} {:>7} {:>4}"


@dataclass(frozen=True)
class Resources:
    """What one compiled variant needs. Bytes for stack and shared, instruction counts for the rest."""

    kernel: str
    label: str
    target: int
    dtype: str
    shape: str
    registers: int
    stack: int
    spills: int
    shared: int
    mma: int
    wants_mma: bool
    known_spills: int = 0

    @property
    def faults(self) -> list[str]:
        limit = SHARED_LIMIT[self.target]
        found = [
            (self.spills > self.known_spills, f"{self.spills} spill instructions"),
            (self.stack > 0 and not self.known_spills, f"{self.stack} B stack"),
            (self.shared > limit, f"{self.shared} B shared memory, limit {limit}"),
            (self.wants_mma and not self.mma, "no tensor-core instruction"),
        ]
        return [text for wrong, text in found if wrong]


def compile_variant(variant: Variant, row: Launch, target: int) -> Any:
    """Triton's compiled kernel with its "cubin", as the launcher would compile it on that target."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.function.arg_names
    signature = {name: "constexpr" if name in variant.constexprs else variant.signature[name] for name in names}
    divisible = [i for i, n in enumerate(names) if signature[n] != "constexpr" and n not in variant.unaligned]
    source = ASTSource(
        fn=variant.function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in variant.constexprs.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in divisible if signature[names[i]][0] in "*i"},
    )
    options = row.options | {"num_warps": variant.warps or row.warps, "num_stages": variant.stages or row.stages}
    if variant.fused is not None:
        options["enable_fp_fusion"] = variant.fused
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def _tool(name: str, *arguments: str) -> str:
    import triton

    binary = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    return done.stdout


def measure(variant: Variant, row: Launch, target: int) -> Resources:
    """Compile and read the cubin."""
    compiled = compile_variant(variant, row, target)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        code = _tool("nvdisasm", str(cubin))
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("STL", "LDL", *MMA)}
    return Resources(
        kernel=row.kernel,
        label=variant.label,
        target=target,
        dtype=row.dtype,
        shape=" ".join(f"{name}={size}" for name, size in row.shape.items()),
        registers=found["REG"],
        stack=found["STACK"],
        spills=counts["STL"] + counts["LDL"],
        shared=int(compiled.metadata.shared),
        mma=sum(counts[name] for name in MMA),
        wants_mma=variant.tensor_cores,
        known_spills=row.spills if variant.may_spill else 0,
    )


def report(targets: Iterable[int], kernels: Iterable[str], dtypes: Iterable[str]) -> Iterator[Resources]:
    """All variants of the rows that a launch on each target would find, filtered; empty filters mean all."""
    kernels, dtypes, makers = set(kernels), set(dtypes), announced()
    unknown = kernels - makers.keys()
    if unknown:
        raise ValueError(f"kernel: {min(unknown)!r} came, one of {', '.join(sorted(makers))} wanted")
    for target in targets:
        for row in rows():
            wanted = row.capability == target and (not kernels or row.kernel in kernels)
            if wanted and (not dtypes or row.dtype in dtypes):
                for variant in makers[row.kernel](row):
                    yield measure(variant, row, target)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mimosa.kernels.resource_report", description=__doc__)
    parser.add_argument("kernels", nargs="*", help="names from the launch table; none: all")
    parser.add_argument("--target", type=int, action="append", choices=sorted(SHARED_LIMIT), help="default: 90 and 100")
    parser.add_argument("--dtype", action="append", choices=("fp32", "bf16"))
    chosen = parser.parse_args(arguments)
    failed = seen = 0
    print(LINE.format("kernel", "target", "dtype", "shape", "regs", "stack", "spill", "shared", "mma"))
    for r in report(chosen.target or TARGETS, chosen.kernels, chosen.dtype or ()):
        numbers = (r.registers, r.stack, r.spills, r.shared, r.mma)
        verdict = "  <- " + ", ".join(r.faults) if r.faults else ""
        print(LINE.format(r.label, f"sm_{r.target}", r.dtype, r.shape, *numbers) + verdict, flush=True)
        seen, failed = seen + 1, failed + bool(r.faults)
    print(f"{seen} variants, {failed} at fault")
    return 1 if failed or not seen else 0


if __name__ == "__main__":
    # Triton reads both when a kernel is defined or compiled, which happens in main. The second one's default changes in 3.10.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    sys.exit(main())
