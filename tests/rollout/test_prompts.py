"""Columns become prompts by the settings, missing ones are named by line, and train never shares a prompt with eval."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from mimosa.configs.loader import load
from mimosa.configs.schema import FieldsConfig, SourceConfig
from mimosa.records import Message, Prompt
from mimosa.rollout.prompts import drop_shared, load_rows, split, tokenizer_needs

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_train.jsonl"


def loaded(tmp_path, *rows, limit=0, **fields):
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    return load_rows(SourceConfig(path=str(tmp_path / "rows.jsonl"), limit=limit), FieldsConfig(**fields), "math")


def prompt(text, **fields):
    return Prompt(id=text, prompt=text, verifier="exact", ground_truth="1", fields=fields)


def test_columns_map_to_the_record(tmp_path):
    row = {"id": 7, "prompt": "1+1", "ground_truth": 2, "response": "two", "verifier": "exact", "level": {"a": [1]}}
    assert loaded(tmp_path, row) == [Prompt("7", "1+1", "exact", "2", "two", {"ground_truth": 2, "level": {"a": [1]}})]


def test_absent_columns_have_their_stand_ins(tmp_path):
    rows = loaded(tmp_path, {"prompt": "a", "ground_truth": 1.5}, {"prompt": "b", "ground_truth": [1, "é"]})
    fields = [{"ground_truth": 1.5}, {"ground_truth": [1, "é"]}]  # as they are, for functions that want no text
    assert rows == [
        Prompt("1", "a", "math", "1.5", fields=fields[0]),
        Prompt("2", "b", "math", '[1, "é"]', fields=fields[1]),
    ]
    assert loaded(tmp_path, {"prompt": "a", "ground_truth": 1}, {"prompt": "broken"}, limit=1)[0].id == "1"


def test_names_reach_into_nested_columns_and_chats_stay_chats(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    row = {"prompt": chat, "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 3}}
    (given,) = loaded(tmp_path, row, ground_truth="reward_model.ground_truth", id="extra_info.index")
    assert given.prompt == (Message("system", "Be brief."), Message("user", "1+1?"))
    assert (given.ground_truth, given.id) == ("2", "3")
    assert given.fields == {"reward_model": row["reward_model"], "extra_info": row["extra_info"]}
    (given,) = loaded(tmp_path, {"a.b": "flat", "a": {"b": "deep"}, "ground_truth": "1"}, prompt="a.b")
    assert given.prompt == "flat"


def test_template_and_mark(tmp_path):
    row = {"question": "{prompt}?", "answer": "6 * 7 = 42\n#### 41\n#### 42 "}
    fields = {"prompt": "question", "ground_truth": "answer", "response": "answer", "ground_truth_after": "####"}
    (given,) = loaded(tmp_path, row, **fields, template="{prompt} In \\boxed{}.")
    assert (given.prompt, given.ground_truth, given.response) == ("{prompt}? In \\boxed{}.", "42", row["answer"])


@pytest.mark.parametrize(
    ("bad", "fields", "parts"),
    [
        ({"prompt": "b"}, {}, ["line 3", "no ground truth", "'ground_truth'", "the row has prompt"]),
        ({"prompt": "b", "ground_truth": None}, {}, ["line 3", "no ground truth"]),
        ({"prompt": "b", "ground_truth": " "}, {}, ["line 3", "no ground truth"]),
        ({"ground_truth": 1}, {}, ["line 3", "no prompt", "'prompt'"]),
        ({"prompt": 5, "ground_truth": 1}, {}, ["line 3", "no prompt", "5"]),
        ({"prompt": [], "ground_truth": 1}, {}, ["line 3", "no prompt"]),
        ({"prompt": [{"role": "user"}], "ground_truth": 1}, {}, ["line 3", "{'role': 'user'}"]),
        ({"prompt": "b", "ground_truth": "1"}, {"ground_truth_after": "##"}, ["line 3", "'##'"]),
        ({"prompt": "b", "ground_truth": "1", "id": "first"}, {}, ["line 3", "'first'", "line 1"]),
    ],
)
def test_a_row_that_lacks_something_is_named_by_its_line(bad, fields, parts, tmp_path):
    good = {"prompt": "a", "ground_truth": "## 1", "id": "first"}
    with pytest.raises(ValueError) as caught:
        loaded(tmp_path, good, bad, **fields)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_rows_for_rollout_alone_need_no_ground_truth(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "q", "prompt": "a"}\n{"id": "r"}')
    source = SourceConfig(path=str(tmp_path / "rows.jsonl"), limit=1)
    assert load_rows(source, FieldsConfig(), "math", judged=False) == [Prompt("q", "a", "math", "")]
    with pytest.raises(ValueError, match="line 2: no prompt"):
        load_rows(SourceConfig(path=source.path), FieldsConfig(), "math", judged=False)


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no rows from .*rows\.jsonl"):
        loaded(tmp_path)


def test_generated_rows_take_limit_and_template():
    source = SourceConfig(task="parity", options={"bits": 4}, limit=5)
    fields = FieldsConfig(template="Q{prompt}")
    rows = load_rows(source, fields, "exact")
    assert len(rows) == 5 and {row.verifier for row in rows} == {"math"}
    assert all(row.prompt == f"Q{row.fields['key']}=" for row in rows)
    assert tokenizer_needs(source, fields) == ("01=Q", ("\\boxed{", "}"))
    assert tokenizer_needs(SourceConfig(path="x.jsonl"), fields) == ("", ())


def test_the_split_goes_by_the_key_and_is_the_same_for_any_other_rows():
    rows = load_rows(SourceConfig(task="arithmetic"), FieldsConfig(), "math")
    train, held_out = split(rows, 0.1)
    assert len(train) + len(held_out) == 8100 and 700 < len(held_out) < 900
    pairs = [{tuple(sorted(map(int, row.prompt[:-1].split("+")))) for row in side} for side in (train, held_out)]
    assert not pairs[0] & pairs[1]
    assert all(zlib.crc32(f"ev:{row.fields['key']}".encode()) % 10000 < 1000 for row in held_out)
    assert split(rows[::2], 0.1)[1] == [row for row in rows[::2] if row in held_out]


def test_a_prompt_under_two_keys_stays_out_of_train():
    rows = [prompt("same", key=str(number)) for number in range(50)] + [prompt(f"p{number}") for number in range(9)]
    assert {zlib.crc32(f"ev:{number}".encode()) % 10000 < 5000 for number in range(50)} == {True, False}
    train, held_out = split(rows, 0.5)
    assert len(train) + len(held_out) < len(rows)
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}


def test_a_side_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"data\.eval_fraction: got 0\.01 of 2 rows.*eval"):
        split([prompt("a"), prompt("b")], 0.01)
    with pytest.raises(ValueError, match="none to train"):
        split([prompt("a"), prompt("b")], 0.9999)


def test_rows_of_a_separate_eval_source_leave_train():
    train = [prompt("a  b"), prompt("c"), prompt("2+1", key="1+2"), prompt("d", key="k")]
    kept, dropped = drop_shared(train, [prompt("a b"), prompt("1+2", key="1+2"), prompt("e", key="j")])
    assert ([row.prompt for row in kept], dropped) == (["c", "d"], 2)
    chat = Prompt("x", (Message("user", "hi"),), "exact", "1")
    assert drop_shared([chat], [chat]) == ([], 1)


@pytest.mark.skipif(not GSM8K.exists(), reason="../shared/data is not there")
def test_gsm8k_works_by_preset():
    config = load("gsm8k", [f"data.train.path={GSM8K}", "data.train.limit=300"])
    rows = load_rows(config.data.train, config.data.fields, config.reward.verifier)
    assert len(rows) == 300
    assert rows[0].ground_truth == "72" and rows[0].prompt.startswith("Natalia sold clips")
    assert rows[0].prompt.endswith("\\boxed{}.") and rows[0].response is None
    assert rows[0].verifier == "math"
