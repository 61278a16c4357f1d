import json

import numpy as np
import pytest

from mimosa.cluster.verifier_actor import VerifierActor
from mimosa.cluster.workload import build_tokenizer, check_rewards, load_workload
from mimosa.configs.loader import load, to_yaml
from mimosa.records import Completion, Request, Task


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gsm8k(tmp_path, train, evaluation):
    files = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in (("train", train), ("eval", evaluation))]
    return load("gsm8k", [f"data.train.path={files[0]}", f"data.eval.path={files[1]}"])


def row(question: str, answer: int) -> dict:
    return {"question": question, "answer": f"so #### {answer}"}


def test_train_and_eval_files_with_the_same_row_numbers_keep_their_own_tokens(tmp_path):
    config = gsm8k(tmp_path, [row(f"train {i}?", i) for i in range(5)], [row(f"eval {i}?", 90 + i) for i in range(3)])
    tokenizer = build_tokenizer(config)
    workload = load_workload(config, tokenizer)
    assert len(workload.train) == 5 and len(workload.evaluation) == 3
    for prompts, word in ((workload.train, "train"), (workload.evaluation, "eval")):
        for prompt in prompts:
            text = tokenizer.decode(workload.tokens[prompt.id])
            assert text.startswith(f"{word} ") and text == prompt.prompt


def test_a_training_row_that_is_an_evaluation_prompt_is_left_out_and_said(tmp_path):
    config = gsm8k(tmp_path, [row("same?", 1), row("other?", 2)], [row("same?", 1)])
    workload = load_workload(config, build_tokenizer(config))
    assert [p.ground_truth for p in workload.train] == ["2"]
    assert workload.notes == ("1 training rows left out: their prompt is an evaluation prompt",)


def test_a_generated_task_is_split_by_its_operands():
    config = load("quickstart", [])
    workload = load_workload(config, build_tokenizer(config))
    sides = [{tuple(sorted(p.prompt[:-1].split("+"))) for p in rows} for rows in (workload.train, workload.evaluation)]
    assert not sides[0] & sides[1]
    assert len(workload.train) + len(workload.evaluation) == 8100
    assert 600 < len(workload.evaluation) < 1000


def test_overlong_rows_are_counted_when_dropped(tmp_path):
    config = gsm8k(tmp_path, [row("a?", 1), row("b" * 2000, 2)], [row("c?", 3)])
    with pytest.raises(ValueError, match=r"prompt '2'.*data.max_prompt_tokens=1088"):
        load_workload(config, build_tokenizer(config))
    config.data.overlong = "drop"
    workload = load_workload(config, build_tokenizer(config))
    assert len(workload.train) == 1 and "1 rows dropped" in workload.notes[0]


def test_a_reward_function_is_tried_before_anything_starts_and_its_file_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def good(response):\n    return 1.0\n\ndef odd(a, b):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    config = load("gsm8k", ["reward.verifier=mine.py:good"])
    (line,) = check_rewards(config)
    assert line == "reward function mine.py:good: called as mimosa calls one, one answer at a time"
    assert config.reward.verifier == f"{tmp_path}/mine.py:good"
    for spec, words in (
        ("mine.py:odd", "no known interface"),
        ("mine.py:god", "no 'god' in it"),
        ("our.py:f", "no such file"),
    ):
        with pytest.raises(ValueError, match=words):
            check_rewards(load("gsm8k", [f"reward.verifier={spec}"]))


def test_a_rubric_comes_from_the_settings(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def all_of(prompts, completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    parts = "[{verifier: math, weight: 2}, {verifier: 'mine.py:all_of', weight: 0.5, options: {low: -1}}]"
    config = load("gsm8k", ["reward.verifier=rubric", f"reward.options={{parts: {parts}}}"])
    (line,) = check_rewards(config)
    assert line == "reward function mine.py:all_of: called as trl calls one, all answers to a prompt at once"
    assert config.reward.options["parts"][1]["verifier"] == f"{tmp_path}/mine.py:all_of"
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert load(str(tmp_path / "run.yaml"), []).reward == config.reward


def test_a_row_names_a_known_verifier_or_the_one_of_the_settings(tmp_path):
    config = gsm8k(tmp_path, [row("a?", 1) | {"verifier": "/tmp/evil.py:f"}], [row("b?", 2)])
    with pytest.raises(ValueError, match=r"prompt '1': unknown verifier '/tmp/evil.py:f'"):
        load_workload(config, build_tokenizer(config))
    config.reward.verifier = "/tmp/evil.py:f"
    assert load_workload(config, build_tokenizer(config)).notes == ()


def test_a_verifier_that_judges_no_row_is_said():
    config = load("smoke", ["reward.verifier=exact"])
    (note,) = load_workload(config, build_tokenizer(config)).notes
    assert note == (
        "reward.verifier=exact judges no training row: every row names its own (math); with data.fields.verifier= "
        "(empty) no row names one"
    )


@pytest.mark.parametrize("task", ["smoke", "file"])
def test_the_names_in_rows_can_be_left_unread(tmp_path, task):
    config = load("smoke", ["reward.verifier=exact", "data.fields.verifier="])
    if task == "file":
        config = gsm8k(tmp_path, [row("a?", 1) | {"verifier": "math"}], [row("b?", 2) | {"verifier": "math"}])
        config.reward.verifier, config.data.fields.verifier = "exact", ""
    workload = load_workload(config, build_tokenizer(config))
    assert workload.verifiers == ("exact",)
    assert workload.notes == ()


def test_a_workload_knows_the_verifiers_of_its_rows(tmp_path):
    config = gsm8k(
        tmp_path, [row("a?", 1), row("b?", 3) | {"verifier": "code"}], [row("c?", 2) | {"verifier": "exact"}]
    )
    assert load_workload(config, build_tokenizer(config)).verifiers == ("code", "exact", "math")


BARE = ["data.train.options.boxed=false", "data.train.options.cot=false"]


def test_bare_answers_of_a_task_are_judged_as_such():
    config = load("quickstart", BARE)
    workload = load_workload(config, build_tokenizer(config))
    prompt = workload.train[0]
    scores = [judged(config, prompt, text) for text in (prompt.response, f"\\boxed{{{prompt.ground_truth}}}", "x")]
    assert scores == [1.0, 0.0, 0.0]


def judged(config, prompt, text: str) -> float | None:
    nothing = np.zeros(0, np.int32)
    completion = Completion(prompt.id, 0, nothing, nothing, nothing, "stop", text)
    task = Task(prompt, Request(prompt.id, nothing, 1))
    return VerifierActor(config).score([(task, completion)])[0].score


def test_settings_against_bare_answers_are_refused():
    for override, said in (
        ("reward.options.boxed=true", r"reward\.options: got \{'boxed': True\}, wanted none"),
        ("data.eval.task=arithmetic", r"options\.boxed: got false for one source alone"),
    ):
        config = load("quickstart", [*BARE, override])
        with pytest.raises(ValueError, match=said):
            load_workload(config, build_tokenizer(config))
