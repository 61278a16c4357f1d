"""The verifier `countdown`."""

import time

import pytest

from mimosa.records import Prompt
from mimosa.rewards.countdown import Countdown

TASK = '{"numbers": [3, 5, 7, 2], "target": 22}'


def judged(answer, ground_truth=TASK, **options):
    return Countdown(**options).score(f"thus \\boxed{{{answer}}}", Prompt("p", "", "countdown", ground_truth))


@pytest.mark.parametrize(
    "answer",
    [
        "3*5+7", "7+5*3", "(3*5)+7", "3 * 5 + 7 = 22", "3\\times5+7", "3 × 5 + 7", "3\\cdot 5+7=22", "7+(5*3)", "\\left(3*5\\right)+7",
        "$3*5+7$", "(7-2)*5-3",
    ],
)  # fmt: skip
def test_right(answer):
    verdict = judged(answer)
    assert (verdict.status, verdict.score, verdict.reason) == ("scored", 1.0, "reaches the target")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("3*5+5", "5 is not given, or used too often"),
        ("22", "22 is not given"),
        ("3*5+7+0", "0 is not given"),
        ("11*2", "11 is not given"),
        ("3*5", "another value"),
        ("3*5+7=21", "what follows = is not the target"),
        ("3*5=22", "another value"),
        ("22=3*5+7", "what follows = is not the target"),
        ("3*5+7=22=22", "more than one equals sign"),
        ("3*5+7=", "what follows = is not the target"),
        ("-3*-5+7", "only + - * /"),
        ("+3*5+7", "only + - * /"),
        ("--3*5+7", "only + - * /"),
        ("3**5", "only + - * /"),
        ("7//2*5+7", "only + - * /"),
        ("3(5)+7", "only + - * /"),
        ("(3,5)", "characters other than"),
        ("7/(5-3-2)", "division by zero"),
        ("3*5+7.0", "characters other than"),
        ("3*5+0x7", "characters other than"),
        ("3*5+7_0", "characters other than"),
        ("3*5+7 if 1 else 0", "characters other than"),
        ("__import__('os')", "characters other than"),
        ("3*5+7\x00", "characters other than"),
        ("3*5+٧", "characters other than"),
        ("3*5+7²", "characters other than"),
        ("3*5 7", "not an expression"),
        ("3*(5+7", "not an expression"),
        ("03*5+7", "not an expression"),
        ("()", "only + - * /"),
        ("3*5+7" + " " * 200 + "+0", "longer than 200"),
        ("(" * 99 + "3" + ")" * 99, "another value"),
        ("2" + "+2" * 99, "more than 100 parts"),
        ("", "empty"),
    ],
)  # fmt: skip
def test_wrong(answer, reason):
    verdict = judged(answer)
    assert (verdict.status, verdict.score) == ("scored", 0.0)
    assert reason in verdict.reason


def test_fractions_are_exact():
    assert judged("8/(3-8/3)", '{"numbers": [3, 3, 8, 8], "target": 24}').score == 1.0
    assert judged("1/3*3", '{"numbers": [1, 3, 3], "target": 1}').score == 1.0
    assert judged("7-7/10*10", '{"numbers": [7, 7, 10, 10], "target": 0}').score == 1.0


def test_all_numbers():
    assert judged("3*5+7", all_numbers=True).reason == "not every number is used"
    assert judged("3*5+7", '{"numbers": [3, 5, 7], "target": 22}', all_numbers=True).score == 1.0


def test_no_box_scores_zero():
    assert Countdown().score("3*5+7", Prompt("p", "", "countdown", TASK)).score == 0.0


@pytest.mark.parametrize(
    "ground_truth",
    ["", "22", "[]", "null", '{"numbers": [1]}', '{"numbers": 1, "target": 2}', '{"numbers": [1.5], "target": 2}',
     '{"numbers": [true], "target": 1}', '{"numbers": ["1"], "target": 1}', "[" * 100_000],
)  # fmt: skip
def test_a_malformed_ground_truth_is_no_verdict_on_the_answer(ground_truth):
    verdict = judged("1", ground_truth)
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert "'p'" in verdict.reason


def test_hostile_answers_are_bounded():
    start = time.perf_counter()
    for answer in ("9*" * 99 + "9", "(" * 200, "1/" * 99 + "1", "\\left" * 80, "×" * 200, "-" * 199 + "1", "9" * 200):
        assert judged(answer).score == 0.0
    assert time.perf_counter() - start < 1.0
