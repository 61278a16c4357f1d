"""Rows of other systems become prompts by their fields alone; settings that name columns go before."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from mimosa.configs.schema import FieldsConfig, SourceConfig
from mimosa.records import Message
from mimosa.rollout.prompts import load_rows

ASK = {"role": "user", "content": "What is 6*7?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SAY = {"role": "assistant", "content": "It is 42."}
CHAT = (Message("system", "Be brief."), Message("user", "What is 6*7?"))
VERL = {
    "data_source": "openai/gsm8k", "prompt": [SYSTEM, ASK], "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "42"}, "extra_info": {"split": "train", "index": 3},
}  # fmt: skip
SKYRL = {
    "data_source": "gsm8k", "prompt": [SYSTEM, ASK], "env_class": "gsm8k",
    "reward_spec": {"method": "rule", "ground_truth": "42"}, "extra_info": {"index": 3},
}  # fmt: skip
TULU = {"messages": [SYSTEM, ASK, SAY], "ground_truth": ["42"], "dataset": ["gsm8k"]}
AREAL = {"messages": [SYSTEM, ASK], "answer": "42"}
VERIFIERS = {"prompt": [SYSTEM, ASK], "answer": "42", "info": {"level": 1}, "task": "sums"}
ROLL = {"messages": json.dumps([SYSTEM, ASK]), "ground_truth": "42", "tag": "gsm8k", "domain": "math_rule"}


def loaded(tmp_path, row, kind="jsonl", **fields):
    notes: list[str] = []
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    else:
        file.write_text(json.dumps(row))
    (prompt,) = load_rows(SourceConfig(path=str(file)), FieldsConfig(**fields), "math", note=notes.append)
    return prompt, notes


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("name", "row"),
    [("verl", VERL), ("skyrl", SKYRL), ("tulu", TULU), ("areal", AREAL), ("verifiers", VERIFIERS), ("roll", ROLL)],
)
def test_a_row_is_recognised_by_its_fields(name, row, kind, tmp_path):
    prompt, notes = loaded(tmp_path, row, kind)
    assert (prompt.prompt, prompt.ground_truth, prompt.verifier, prompt.id) == (CHAT, "42", "math", "1")
    assert len(notes) == 1 and f"a row of {name}'s form" in notes[0] and f"rows.{kind}" in notes[0]
    taken = {"prompt", "messages", "ground_truth"}
    assert {key: prompt.fields[key] for key in row.keys() - taken} == {key: row[key] for key in row.keys() - taken}


def test_a_question_is_a_prompt_and_takes_the_template(tmp_path):
    prompt, _ = loaded(tmp_path, {"question": "6*7", "answer": 42}, template="{prompt}=")
    assert (prompt.prompt, prompt.ground_truth, prompt.fields) == ("6*7=", "42", {"answer": 42, "ground_truth": 42})


def test_a_closing_assistant_turn_is_the_demonstration(tmp_path):
    assert loaded(tmp_path, TULU)[0].response == "It is 42."
    assert loaded(tmp_path, {**TULU, "response": "42"})[0].response == "42"
    assert loaded(tmp_path, AREAL)[0].response is None


def test_a_chat_alone_is_enough_where_nothing_is_judged(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [SYSTEM, ASK]}))
    (prompt,) = load_rows(SourceConfig(path=str(tmp_path / "rows.jsonl")), FieldsConfig(), "math", judged=False)
    assert prompt.prompt == CHAT


def test_settings_that_name_columns_go_before(tmp_path):
    row = {**VERL, "question": "1+1", "result": "2"}
    prompt, _ = loaded(tmp_path, row, prompt="question", ground_truth="result")
    assert (prompt.prompt, prompt.ground_truth) == ("1+1", "2")
    prompt, _ = loaded(tmp_path, row, ground_truth="extra_info.index")
    assert (prompt.prompt, prompt.ground_truth) == (CHAT, "3")
    prompt, notes = loaded(tmp_path, {**TULU, "prompt": "1+1", "ground_truth": "2"})
    assert (prompt.prompt, prompt.ground_truth, notes) == ("1+1", "2", [])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": "[not JSON", "ground_truth": "1", "tag": "a"}, "no prompt: field 'prompt' holds nothing"),
        ({"messages": [{"role": "user"}], "answer": "1"}, "field 'messages': got the message {'role': 'user'}"),
        ({"messages": [ASK], "answer": " "}, "no ground truth: field 'answer'"),
        ({"messages": [ASK]}, "no ground truth: field 'ground_truth' holds nothing"),
        ({"prompt": [ASK], "reward_model": {"style": "rule"}}, "no ground truth: field 'ground_truth'"),
    ],
)
def test_a_row_of_no_form_is_named(row, words, tmp_path):
    with pytest.raises(ValueError) as caught:
        loaded(tmp_path, row)
    assert words in str(caught.value) and "line 1" in str(caught.value)
