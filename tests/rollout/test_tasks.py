"""Generated tasks: right answers, right steps, all rows or a sample without repetition, the same in every run."""

from __future__ import annotations

import json
import re

import pytest

from mimosa.rewards.registry import create
from mimosa.rollout.tasks import TASKS, make_task

OPTIONS = {
    "arithmetic": {"ops": ["add", "subtract", "multiply"], "digits": 2, "size": 500},
    "modular_arithmetic": {"ops": ["add", "subtract", "multiply"], "terms": 4, "modulus": 12, "size": 500},
    "parity": {"bits": 9},
    "countdown": {"numbers": 4, "ops": ["add", "subtract", "multiply", "divide"], "size": 200},
    "digit_sum": {"digits": 5, "modulus": 6, "size": 300},
}


def rows(name, **options):
    return list(make_task(name, options).rows())


def by_prompt(name, prompt, **options):
    return next(row for row in rows(name, **options) if row.prompt == prompt)


def boxed(text):
    return re.fullmatch(r".*\\boxed\{([^{}]*)\}", text)[1]


def test_the_tried_tasks_read_as_in_the_recipe():
    row = by_prompt("arithmetic", "81+52=")
    assert (row.response, row.ground_truth, row.verifier) == ("0313\\boxed{133}", "133", "math")
    assert row.id == "arithmetic:81+52"
    assert by_prompt("arithmetic", "47+38=").response == "1508\\boxed{85}"
    assert by_prompt("digit_sum", "3732=").response == "035\\boxed{5}"


def test_two_digit_addition_has_all_ordered_pairs():
    prompts = {row.prompt for row in rows("arithmetic")}
    assert prompts == {f"{a}+{b}=" for a in range(10, 100) for b in range(10, 100)}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_right_and_rows_are_distinct(name):
    given = rows(name, **OPTIONS[name])
    assert len(given) == OPTIONS[name].get("size", 2**9)
    assert len({row.id for row in given}) == len({row.prompt for row in given}) == len(given)
    for row in given:
        question = row.prompt.removesuffix("=")
        if name in ("arithmetic", "modular_arithmetic"):
            assert row.ground_truth == boxed(row.response) == str(eval(question))
        elif name == "countdown":
            truth = json.loads(row.ground_truth)
            expression = boxed(row.response)
            assert eval(expression) == truth["target"]
            assert sorted(map(int, re.findall(r"\d+", expression))) == truth["numbers"]
            assert question == ",".join(map(str, truth["numbers"])) + f"->{truth['target']}"
        else:
            base = 2 if name == "parity" else 6
            assert row.ground_truth == boxed(row.response) == str(sum(map(int, question)) % base)


@pytest.mark.parametrize("name", TASKS)
def test_a_demonstration_satisfies_its_verifier_and_a_wrong_answer_does_not(name):
    judges = {verifier: create(verifier, {}, timeout=5.0) for verifier in ("math", "countdown")}
    for row in rows(name, **OPTIONS[name])[:50]:
        wrong = row.response.replace("\\boxed{", "\\boxed{1+" if name == "countdown" else "\\boxed{1")
        scores = [judges[row.verifier].score(text, row).score for text in (row.response, wrong)]
        assert scores == [1.0, 0.0], row
    for judge in judges.values():
        judge.close()


@pytest.mark.parametrize("name", TASKS)
def test_alphabet_and_symbols_cover_every_text(name):
    task = make_task(name, OPTIONS[name])
    left_over = set()
    for row in task.rows():
        text = row.prompt + row.response
        for symbol in task.symbols():
            text = text.replace(symbol, "")
        left_over |= set(text)
    assert left_over == set(task.alphabet())


@pytest.mark.parametrize("name", TASKS)
def test_rows_depend_on_options_and_seed_alone(name):
    assert rows(name, **OPTIONS[name]) == rows(name, **OPTIONS[name])
    assert rows(name, **OPTIONS[name], seed=1) != rows(name, **OPTIONS[name])


def test_rows_of_a_known_seed_stay_what_they_are():
    assert [row.prompt for row in rows("arithmetic")][:3] == ["86+87=", "45+15=", "78+99="]
    assert rows("countdown")[0].prompt == "5,5,10->55="


def test_steps_of_subtraction_borrow_by_a_tens_digit_of_zero():
    assert by_prompt("arithmetic", "81-52=", ops=["subtract"]).response == "0912\\boxed{29}"
    pairs = {row.prompt for row in rows("arithmetic", ops="subtract", digits=1)}
    assert pairs == {f"{a}-{b}=" for a in range(10) for b in range(a + 1)}


def test_steps_of_products_sums_and_chains():
    assert by_prompt("arithmetic", "81*52=", ops=["multiply"]).response == "162+4050\\boxed{4212}"
    assert by_prompt("modular_arithmetic", "((3+5)+6)%7=").response == "10\\boxed{0}"
    assert by_prompt("modular_arithmetic", "(9+8)%12=", terms=2, modulus=12).response == "05\\boxed{5}"
    assert by_prompt("parity", "10110=", bits=5).response == "1011\\boxed{1}"


def test_questions_that_differ_in_order_share_a_key():
    def key(name, prompt, **options):
        return by_prompt(name, prompt, **options).fields["key"]

    assert key("arithmetic", "81+52=") == key("arithmetic", "52+81=") != key("arithmetic", "51+82=")
    chain = {"ops": ["add", "subtract"], "modulus": 5}
    assert key("modular_arithmetic", "((1+2)+3)%5=", **chain) == key("modular_arithmetic", "((3+2)+1)%5=", **chain)
    assert key("modular_arithmetic", "((1+2)-3)%5=", **chain) == key("modular_arithmetic", "((2+1)-3)%5=", **chain)
    assert key("modular_arithmetic", "((1+2)-3)%5=", **chain) != key("modular_arithmetic", "((3+2)-1)%5=", **chain)
    assert key("modular_arithmetic", "((1-2)+3)%5=", **chain) != key("modular_arithmetic", "((2-1)+3)%5=", **chain)


def test_demonstrations_without_steps_or_box():
    assert by_prompt("arithmetic", "81+52=", cot=False).response == "\\boxed{133}"
    row = by_prompt("arithmetic", "81+52=", cot=False, boxed=False)
    assert (row.response, row.verifier) == ("133", "exact")
    assert make_task("arithmetic", {"cot": False, "boxed": False}).symbols() == ()


def test_a_space_beyond_counting_is_sampled():
    given = rows("digit_sum", digits=200, size=50)
    assert len({row.prompt for row in given}) == 50
    assert len(rows("digit_sum", digits=9)) == 1 << 15


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("aritmetic", {}, ["'aritmetic'", "'arithmetic'"]),
        ("parity", {"bit": 3}, ["'bit'", "'bits'"]),
        ("parity", {"bits": "3"}, ["bits='3'", "an integer"]),
        ("parity", {"bits": True}, ["bits=True", "an integer"]),
        ("parity", {"cot": 1}, ["cot=1", "true or false"]),
        ("parity", {"bits": 1}, ["bits=1", "2 to 1000"]),
        ("parity", {"size": -1}, ["size=-1"]),
        ("parity", {"boxed": False}, ["cot=True with boxed=False"]),
        ("arithmetic", {"ops": ["add", "power"]}, ["ops=['add', 'power']", "multiply"]),
        ("arithmetic", {"ops": []}, ["ops=[]"]),
        ("arithmetic", {"ops": [1]}, ["ops=[1]", "a list of names"]),
        ("countdown", {"low": 30}, ["low=30", "1 to 20"]),
        ("digit_sum", {"modulus": 11}, ["modulus=11", "2 to 10"]),
    ],
)
def test_bad_options_are_named(name, options, parts):
    with pytest.raises(ValueError) as caught:
        make_task(name, options)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_countdown_says_when_its_options_hold_fewer_rows():
    with pytest.raises(ValueError, match=r"size=50, wanted at most \d+"):
        rows("countdown", numbers=2, low=1, high=3, max_target=3, size=50)
