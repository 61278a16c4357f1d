"""Where a kernel announces what its launch-table rows compile to, so that it can be compiled where there is no GPU.

A kernel module ends with `announce("its name in the launch table", variants)`, and its name joins MODULES here. `variants`
takes a row of the table and returns everything that is launched for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .launch_table import Launch

MODULES = ("fixed_matmul", "row_norm", "swiglu", "linear_logprob_triton", "tile_variants")
POINTERS = {"fp32": "*fp32", "bf16": "*bf16"}


@dataclass(frozen=True)
class Variant:
    """One compilation: a jit function with its argument types and compile-time arguments.

    `signature` maps argument names to Triton's types ("*bf16", "fp32", "i32"), and may name more than the function has;
    `constexprs` holds all other arguments. `unaligned` names what may come without 16-byte alignment or divisibility by 16
    (the function's do_not_specialize and do_not_specialize_on_alignment). `tensor_cores` says whether its products must run
    on them. `warps` and `stages`: None for the row's; `fused`: whether the compiler may fuse multiply-adds, None for its default;
    `may_spill`: up to the row's known spills.
    """

    label: str
    function: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    unaligned: Sequence[str] = field(default=())
    tensor_cores: bool = False
    warps: int | None = None
    stages: int | None = None
    fused: bool | None = None
    may_spill: bool = False


Variants = Callable[[Launch], Sequence[Variant]]
_announced: dict[str, Variants] = {}


def announce(kernel: str, variants: Variants) -> None:
    """Register a kernel of the launch table. Raises ValueError for a name that is taken."""
    if kernel in _announced:
        raise ValueError(f"kernel: {kernel!r} came twice, each name once wanted")
    _announced[kernel] = variants


def announced() -> dict[str, Variants]:
    """All kernels by name; imports their modules."""
    for module in MODULES:
        importlib.import_module(f"{__package__}.{module}")
    return dict(_announced)
