import dataclasses

import pytest

from mimosa.kernels.kernel_registry import announce, announced
from mimosa.kernels.launch_table import DIRECTIONS, TABLE, Launch, choose, lookup, read_rows, replaced, rows, write_rows


def a_row(arch, source, **shape):
    return Launch("scan", arch, "forward", "bf16", shape, {"C": 64}, 4, 2, source)


ROWS = (
    a_row("sm_90", "a", N=128, P=64, R=1),
    a_row("sm_90", "b", N=128, P=64, R=4),
    a_row("sm_90", "c", N=32, P=32, R=4),
    a_row("sm_100", "d", N=128, P=64, R=1),
)


@pytest.mark.parametrize(
    ("arch", "shape", "wanted"),
    [
        ("sm_90", dict(N=128, P=64, R=4), "b"),
        ("sm_90", dict(N=128, P=64, R=8), "b"),
        ("sm_90", dict(N=16, P=16, R=1), "c"),
        ("sm_90", dict(N=64, P=64, R=2), "a"),  # as far from b: the first of equals
        ("sm_100", dict(N=16, P=16, R=4), "d"),
        ("sm_103", dict(N=128, P=64, R=4), "d"),
        ("sm_80", dict(N=128, P=64, R=4), "b"),
        ("cpu", dict(N=32, P=32, R=4), "c"),
    ],
)
def test_the_nearest_row_is_taken(arch, shape, wanted):
    assert choose(ROWS, "scan", "forward", "bf16", arch, shape).source == wanted


@pytest.mark.parametrize("kernel,direction,dtype", [("step", "forward", "bf16"), ("scan", "backward", "bf16")])
def test_no_row_is_an_error(kernel, direction, dtype):
    with pytest.raises(ValueError, match=f"kernel: '{kernel}' \\({direction}, {dtype}\\) came"):
        choose(ROWS, kernel, direction, dtype, "sm_90", dict(N=1, P=1, R=1))


def test_a_size_that_rows_are_chosen_by_must_come():
    with pytest.raises(ValueError, match=r"^P: nothing came"):
        choose(ROWS, "scan", "forward", "bf16", "sm_90", dict(N=128, R=1))


def test_a_file_that_is_written_reads_the_same():
    assert read_rows(write_rows(ROWS)) == ROWS


@pytest.mark.parametrize("field,value", [("direction", "sideways"), ("wraps", 4)])
def test_a_wrong_row_is_named(field, value):
    broken = write_rows(ROWS).replace('"direction": "forward"', f'"{field}": "{value}"', 1)
    with pytest.raises(ValueError, match=f"row 0: .*{value}"):
        read_rows(broken)


def test_the_rows_of_the_file():
    """Every kernel has rows for both architectures, each with its origin, and no two answer the same question."""
    assert len(TABLE.read_text().splitlines()) == len(rows()) + 2  # one row a line
    assert {r.kernel for r in rows()} == set(announced())
    for row in rows():
        assert row.capability >= 80 and row.direction in DIRECTIONS
        assert row.source.startswith(("measured", "resource report")), row
        assert lookup(row.kernel, row.direction, row.dtype, row.arch, **row.shape) == row
    questions = {(r.kernel, r.direction, r.dtype, *sorted(r.shape.items())) for r in rows() if r.arch == "sm_90"}
    assert questions == {
        (r.kernel, r.direction, r.dtype, *sorted(r.shape.items())) for r in rows() if r.arch == "sm_100"
    }


def test_rows_are_pinned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rows()[0].warps = 16  # type: ignore[misc]


def test_a_row_may_be_replaced_while_measuring():
    old = lookup("replay", "step", "bf16", "sm_90", N=128, P=64, R=1)
    new = dataclasses.replace(old, warps=16)
    with pytest.raises(KeyError), replaced(old, new):
        assert lookup("replay", "step", "bf16", "sm_90", N=128, P=64, R=1) is new
        raise KeyError
    assert lookup("replay", "step", "bf16", "sm_90", N=128, P=64, R=1) == old


def test_a_kernel_is_announced_once():
    with pytest.raises(ValueError, match="kernel: 'swiglu' came twice"):
        announced()
        announce("swiglu", lambda row: [])
