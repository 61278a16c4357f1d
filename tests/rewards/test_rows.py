"""Lines of any bytes as rows: each is judged or says why not, and its answer is strict JSON."""

import gzip
import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimosa.records import Message, Verdict
from mimosa.rewards import rows

GOOD = {"id": "a", "response": "\\boxed{4}", "ground_truth": "4"}


def row(**columns):
    return rows.read(json.dumps({**GOOD, **columns}).encode(), 7)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "line 7: empty, wanted a JSON object"),
        (b"  \t", "line 7: empty, wanted a JSON object"),
        (b"{broken", "line 7: not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"[1, 2]", "line 7: a JSON list, wanted an object"),
        (b"null", "line 7: a JSON NoneType, wanted an object"),
        (b'{"id": 1}', "line 7: no response"),
        (b'{"id": 1, "response": null, "ground_truth": "1"}', "line 7: no response"),
        (b'{"id": 1, "response": 4, "ground_truth": "4"}', "line 7: response is of type int, wanted a text"),
        (b'{"id": 1, "response": "\xff"}', "line 7: not UTF-8: invalid start byte at byte 23"),
        (b'{"id": 1, "n": ' + b"9" * 5000 + b"}", "line 7: not JSON that can be read"),
        (b"[" * 100_000, "line 7: not JSON that can be read: nested too deeply"),
        (b"\x00\x00", "line 7: not JSON"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
)
def test_a_line_that_cannot_be_judged_says_what_is_wrong(line, said):
    found = rows.read(line, 7)
    assert found.prompt is None
    assert (found.verdict.status, found.verdict.score) == ("verifier_failed", None)
    assert found.verdict.reason.startswith(said)


def test_a_line_that_is_not_utf8_keeps_its_id():
    assert rows.read(b'{"id": "x", "response": "\xff\xfe"}', 7).id == "x"


def test_a_line_that_is_too_long_is_not_read(monkeypatch):
    monkeypatch.setattr(rows, "LONGEST", 1 << 20)
    file = io.BytesIO(b"1\n" + b"x" * (3 << 20) + b"\n2\n" + b"y" * (2 << 20))
    found = list(rows.lines(file))
    assert [len(line) for line in found] == [1, (1 << 20) + 1, 1, (1 << 20) + 1]
    assert rows.read(found[1], 2).verdict.reason == "line 2: longer than 1 MiB"


def test_every_line_is_a_row_but_blank_ones_at_the_end():
    assert list(rows.lines(io.BytesIO(b"\xef\xbb\xbf1\r\n\n  \n2\n \n\n"))) == [b"1", b"", b"", b"2"]
    assert list(rows.lines(io.BytesIO(b"1\n2"))) == [b"1", b"2"]
    assert list(rows.lines(io.BytesIO(b"a\x0bb\x85\xe2\x80\xa8c\rd\n"))) == [b"a\x0bb\x85\xe2\x80\xa8c\rd"]
    assert list(rows.lines(io.BytesIO(b""))) == []


def test_packed_files_are_unpacked(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"1\n2\n"))
    with rows.opened(str(tmp_path / "rows.jsonl.gz")) as file:
        assert list(rows.lines(file)) == [b"1", b"2"]
    for path in ("nowhere.jsonl", str(tmp_path)):
        with pytest.raises(ValueError, match="wanted a JSON Lines file"):
            rows.check(path)


def test_a_row_becomes_a_prompt_with_its_other_columns():
    found = row(prompt=[{"role": "user", "content": "2+2?"}], level=3, tests={"kind": "assert"})
    assert found.verdict is None and found.response == "\\boxed{4}"
    assert (found.prompt.id, found.prompt.verifier, found.prompt.ground_truth) == ("a", "", "4")
    assert found.prompt.prompt == (Message("user", "2+2?"),)
    assert found.prompt.fields == {"level": 3, "tests": {"kind": "assert"}}
    assert row(prompt={"odd": 1}).prompt.prompt == ""


@pytest.mark.parametrize(
    ("truth", "text"), [(4, "4"), (0.5, "0.5"), ([1, "a"], '[1, "a"]'), ({"target": 3}, '{"target": 3}')]
)
def test_a_ground_truth_of_another_type_is_its_text(truth, text):
    assert row(ground_truth=truth).prompt.ground_truth == text
    assert row(ground_truth=truth).prompt.fields == {"ground_truth": truth}


@pytest.mark.parametrize("truth", ["", "  \n", None])
def test_an_empty_ground_truth_scores_zero(truth):
    verdict = row(ground_truth=truth).verdict
    assert (verdict.status, verdict.score, verdict.reason) == ("scored", 0.0, "the ground truth is empty")
    assert row(ground_truth=truth, tests={"kind": "stdin"}).verdict is None


@pytest.mark.parametrize("identity", ["a", 7, 1.5, True, ["x", {"y": None}], "\ud800\x00\n", "é" * 3])
def test_an_id_comes_back_as_it_was(identity):
    found = json.loads(rows.answer(row(id=identity).id, Verdict("scored", 1.0, "fine")))
    assert found == {"id": identity, "score": 1.0, "status": "scored", "reason": "fine", "seconds": 0.0}


def test_a_row_without_an_id_has_its_number():
    assert row(id=None).id == 7
    assert rows.read(b'{"response": "", "ground_truth": "1"}', 7).id == 7


@pytest.mark.parametrize("column", ["id", "ground_truth", "response", "prompt", "tests"])
def test_rows_nested_as_deep_as_can_be_read(column):
    for depth in range(900, 1010):
        found = rows.read(
            b'{"response": "x", "ground_truth": "1", "%s": %s}' % (column.encode(), b"[" * depth + b"]" * depth), 3
        )
        assert json.loads(rows.answer(found.id, found.verdict or Verdict("scored", 1.0, "fine")))["status"]


def test_an_id_that_is_no_number_is_its_text():
    assert json.loads(rows.answer(float("nan"), Verdict("scored", 1.0, "fine")))["id"] == "nan"
    assert json.loads(rows.answer([float("inf")], Verdict("scored", 1.0, "fine")))["id"] is None


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


@given(st.binary() | st.text().map(str.encode) | st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
       lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "tests", "prompt"]) | st.text(), inner)).map(
       lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_one_answer(line):
    found = rows.read(line, 3)
    assert (found.prompt is None) <= (found.verdict is not None)
    said = rows.answer(found.id, found.verdict or Verdict("scored", 0.5, "r", 0.25, {"part": 0.5}))
    assert said.isascii() and b"\n" not in said
    content = json.loads(said, parse_constant=refuse)
    assert content["status"] in ("scored", "verifier_failed") and content["reason"]
    assert content["score"] is None or not math.isnan(content["score"])
