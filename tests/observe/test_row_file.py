import json
import resource

import pytest

from mimosa.observe.row_file import RowFile

CALL = {"seed": 3, "samples": 2, "stop_token_ids": [1]}


def begin(path, rows: int = 3) -> bytes:
    with RowFile.open(path, CALL, {"unit": 5}) as file:
        file.append({"id": i, "text": "\u2028 two\nlines"} for i in range(rows))
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("torn", [0, 1, 20])
def test_every_prefix_is_gone_on_with_to_the_same_bytes(tmp_path, kept, torn):
    whole = begin(tmp_path / "whole", 4)
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "out.jsonl"
    begin(path, 0)
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:torn])
    with RowFile.open(path, CALL, {"unit": 99}) as file:
        assert (file.rows, file.last) == (kept, json.loads(lines[kept - 1]) if kept else None)
        if kept or torn:  # an empty file is begun anew
            assert file.plan == {"unit": 5}
        file.append(json.loads(line) for line in lines[kept:])
        assert file.rows == 4
    assert path.read_bytes() == whole


def test_rows_longer_than_a_block_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("mimosa.observe.row_file.BLOCK", 7)
    begin(tmp_path / "out", 5)
    with RowFile.open(tmp_path / "out", CALL, {}) as file:
        assert (file.rows, file.last["id"]) == (5, 4)


@pytest.mark.parametrize("name", CALL)
def test_another_call_is_refused_and_changes_nothing(tmp_path, name):
    before = begin(tmp_path / "out")
    with pytest.raises(ValueError, match=f"--out: .*out, which a call with another {name} began .*--overwrite"):
        RowFile.open(tmp_path / "out", {**CALL, name: [7]}, {})
    assert (tmp_path / "out").read_bytes() == before


def test_a_file_of_somebody_else_is_refused_and_overwritten_when_asked(tmp_path):
    path = tmp_path / "out"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match=r"exists without out\.state"):
        RowFile.open(path, CALL, {})
    assert path.read_text() == "mine\n"
    with RowFile.open(path, CALL, {"unit": 2}, overwrite=True) as file:
        assert file.rows == 0
    with RowFile.open(path, CALL, {"unit": 1}) as file:  # empty: nothing that a plan would bind
        assert file.plan == {"unit": 1}


def test_rows_that_are_no_json_are_refused(tmp_path):
    begin(tmp_path / "out")
    with (tmp_path / "out").open("a") as file:
        file.write("\0\0\0\n")
    with pytest.raises(ValueError, match="whose row 4 is not JSON"):
        RowFile.open(tmp_path / "out", CALL, {})


def test_one_writer_at_a_time(tmp_path):
    begin(tmp_path / "out")
    with RowFile.open(tmp_path / "out", CALL, {}), pytest.raises(ValueError, match="another process is writing"):
        RowFile.open(tmp_path / "out", CALL, {}, overwrite=True)
    with RowFile.open(tmp_path / "out", CALL, {}) as file:
        assert file.rows == 3


def test_a_write_that_fails_half_way_leaves_a_file_to_go_on_with(tmp_path):
    """As on a full disk: here the size of a file is limited."""
    path, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    begin(path, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), RowFile.open(path, CALL, {}) as file:
            file.append({"id": i, "text": "x" * 20} for i in range(2, 9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.read_bytes().endswith(b"\n")
    with RowFile.open(path, CALL, {}) as file:
        assert (file.rows, file.last["id"]) == (3, 2)
