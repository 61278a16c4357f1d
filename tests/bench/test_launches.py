"""The search over launch options, with the clock in our hands; what it measures runs on a GPU alone."""

import dataclasses

import pytest

from mimosa.bench import launches
from mimosa.kernels import launch_table
from mimosa.kernels.launch_table import lookup, read_rows, write_rows

ASKED = ("replay", "step", "bf16")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A copy of the launch table that may be written."""
    file = tmp_path / "table.json"
    file.write_text(write_rows(launch_table.rows()))
    for module in (launches, launch_table):
        monkeypatch.setattr(module, "TABLE", file)
    yield file
    monkeypatch.undo()
    launch_table.rows.cache_clear()
    lookup.cache_clear()


def test_the_options_with_the_least_time_are_written(table, monkeypatch):
    """A kernel that is fastest with 8 warps and 128 registers, on an architecture that has no row yet."""
    seen = []

    def times(work, *_):
        row = lookup(*ASKED, "sm_95", N=128, P=64, R=4)
        seen.append((row.warps, row.registers))
        return [5.0 + abs(row.warps - 8) + abs(row.registers - 128) / 100] * 3

    monkeypatch.setattr(launches, "gpu_times", times)
    monkeypatch.setattr(launches.torch.cuda, "get_device_name", lambda: "a GPU")
    old = lookup(*ASKED, "sm_95", N=128, P=64, R=4)
    assert old.arch == "sm_90"
    found = launches.best(old, "sm_95", 4, lambda: None)
    assert sorted(seen) == sorted(launches.OPTIONS)
    assert (found.warps, found.registers, found.blocks) == (8, 128, old.blocks)
    assert found.source.startswith("measured: a GPU, Triton ") and found.source.endswith("5.000 ms a call")
    launches.write(old, found)
    assert lookup(*ASKED, "sm_95", N=128, P=64, R=4) == found
    assert lookup(*ASKED, "sm_90", N=128, P=64, R=4) == old  # another architecture's row stays
    again = dataclasses.replace(found, warps=4)
    launches.write(found, again)
    assert [r for r in read_rows(table.read_text()) if r.arch == "sm_95"] == [again]
    other = dataclasses.replace(again, shape=dict(N=64, P=64, R=4))
    launches.write(again, other)
    assert [r for r in read_rows(table.read_text()) if r.arch == "sm_95"] == [again, other]  # the nearest row stays too


@pytest.mark.skipif(launches.torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ValueError, match="got no CUDA device"):
        launches.tune()
