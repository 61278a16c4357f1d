"""Functions with the signatures of other systems, called unchanged with what those systems would hand them."""

import json
from pathlib import Path

from mimosa.records import Message, Prompt
from mimosa.rewards import registry
from mimosa.rewards.verifier import Answer

FILE = Path(__file__).parent / "foreign.py"
FIELDS = {
    "data_source": "openai/gsm8k", "extra_info": {"index": 3}, "answer": 42, "level": "easy", "solution": "42", "id_of_row": 7,
    "info": '{"unit": "m"}', "task": "sums", "metadata": {"source": "book"},
}  # fmt: skip
ROW = Prompt("r", "6*7=", "", "42", fields=FIELDS)
CHAT = Prompt("r", (Message("system", "Be brief."), Message("user", "6*7=")), "", "42", fields=FIELDS)


def verdicts(name, *texts, prompt=ROW, **options):
    verifier = registry.create(f"{FILE}:{name}", options, timeout=20.0)
    answers = [Answer(prompt, text, False, "g", number, (3,), (1, 2)) for number, text in enumerate(texts)]
    try:
        return verifier.score_all(answers)
    finally:
        verifier.close()


def scores(name, *texts, prompt=ROW, **options):
    found = verdicts(name, *texts, prompt=prompt, **options)
    assert all(one.status == "scored" for one in found), found
    return [one.score for one in found]


def seen(name, text="42", prompt=ROW, **options):
    (one,) = verdicts(name, text, prompt=prompt, **options)
    return one.score, json.loads(one.reason)


def test_verl():
    info = {"index": 3, "num_turns": 1, "rollout_reward_scores": {}}
    assert seen("verl") == (1.0, {"data_source": "openai/gsm8k", "extra_info": info})
    assert scores("verl", "42", "41") == [1.0, 0.0]
    assert seen("verl_keywords", arguments={"tolerance": 2}) == (1.0, {"kwargs": {"tolerance": 2}})
    assert scores("verl_batch", "42", "41") == [1.0, 0.0]


def test_openrlhf():
    first, second = verdicts("openrlhf", "42", "411")
    assert (first.score, second.score) == (1.0, 0.0)
    assert (first.components, second.components) == ({"length": 6.0, "scores": 1.0}, {"length": 7.0, "scores": 0.0})
    assert scores("openrlhf_plain", "42", "411", prompt=CHAT) == [1.0, 0.0]


def test_slime():
    score, given = seen("slime", arguments={"strict": True})
    assert score == 1.0
    assert given == {
        "strict": True, "status": "completed", "response": "42", "prompt": "6*7=", "metadata": {"source": "book"},
        "tokens": [1, 2, 3],
    }  # fmt: skip
    assert scores("slime_group", "a", "b", "c", "d") == [0.0, 0.25, 0.5, 0.75]


def test_areal():
    assert scores("areal", "42", "41") == [1.0, 0.0]
    assert scores("areal_named", "42", "41") == [1.0, 0.0]


def test_trl():
    assert scores("trl", "a", "b") == [1.0, 1.0] and scores("trl", "a", "a") == [0.0, 0.0]
    first, second, third = verdicts("trl_columns", "42", "none", "41")
    assert (first.score, third.score) == (1.0, 0.0)
    assert (second.status, second.score) == ("skipped", None)
    assert scores("trl_chat", "42", "41", prompt=CHAT) == [1.0, 0.0]


def test_verifiers():
    assert seen("verifiers_one", prompt=CHAT) == (1.0, {"info": {"unit": "m"}, "task": "sums"})
    for name in ("verifiers_one", "verifiers_some", "verifiers_state"):
        assert scores(name, "42", "41") == [1.0, 0.0], name
    assert scores("verifiers_group", "42", "41") == [0.5, 0.0]


def test_torchforge():
    assert scores("torchforge", "42", "41") == [1.0, 0.0]
    assert scores("Torchforge", "42", "41") == [1.0, 0.0]
    assert scores("Torchforge", "42", "41", arguments={"tolerance": 1}) == [1.0, 1.0]


def test_our_own():
    assert scores("plain", "42", "41") == [1.0, 0.0]
    assert scores("plain_group", "42", "41") == [0.5, 0.0]
    assert scores("plain_group", "42", "41", arguments={"weight": 1.0}) == [1.0, 0.0]
    assert seen("wants_column") == (1.0, {"level": "easy"})


def test_a_ground_truth_that_is_no_text_arrives_as_it_is():
    row = Prompt("r", "q", "", "[4, 2]", fields={"ground_truth": [4, 2]})
    assert scores("verl", "[4, 2]", prompt=row) == [0.0]  # a text is no list
    assert scores("verl", "[4, 2]", prompt=Prompt("r", "q", "", "[4, 2]")) == [1.0]


def test_a_column_that_the_row_lacks_is_the_verifiers_failure():
    (one,) = verdicts("wants_column", "42", prompt=Prompt("row 3", "q", "", "42", fields={"lever": 1}))
    assert one.status == "verifier_failed"
    assert one.reason.startswith("foreign.py:wants_column on row 'row 3': nothing is known for its parameter 'level'")
    assert "lever" in one.reason


def test_the_interface_can_be_named():
    assert scores("plain", "42", interface="mimosa") == [1.0]
    (one,) = verdicts("plain", "42", interface="verl")
    assert "nothing is known for its parameter 'response'" in one.reason
