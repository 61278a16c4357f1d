"""The verifier `math`: a table of pairs written for it, its contract on responses, and inputs meant to hang or break it."""

import random
import time
from pathlib import Path

import pytest

from mimosa.records import Prompt
from mimosa.rewards.math_answer import MathAnswer

TABLE = Path(__file__).with_name("math_pairs.tsv")


def prompt(ground_truth):
    return Prompt(id="row 1", prompt="", verifier="math", ground_truth=ground_truth)


@pytest.fixture(scope="module")
def math():
    verifier = MathAnswer(timeout=5.0)
    yield verifier
    verifier.close()


@pytest.fixture(scope="module")
def judged(math):
    """(wanted, class, ground truth, answer, verdict, seconds) of every row of the table."""
    math.score("\\boxed{y+x}", prompt("x+y"))  # the worker's start is nobody's answer
    rows = []
    for line in TABLE.read_text().split("\n")[1:-1]:
        wanted, kind, gold, answer = line.split("\t")
        start = time.perf_counter()
        verdict = math.score(f"It follows that \\boxed{{{answer}}}.", prompt(gold))
        rows.append((wanted, kind, gold, answer, verdict, time.perf_counter() - start))
    return rows


def test_no_wrong_answer_of_the_table_is_accepted(judged):
    rejects = [row for row in judged if row[0] == "reject"]
    assert len(rejects) > 300
    assert [row[:4] for row in rejects if row[4].score != 0.0] == []


def test_nearly_every_right_answer_of_the_table_is_accepted(judged):
    accepts = [row for row in judged if row[0] == "accept"]
    refused = [(*row[:4], row[4].reason) for row in accepts if row[4].score != 1.0]
    assert len(accepts) > 300
    assert len(refused) <= 0.03 * len(accepts), refused


def test_no_row_of_the_table_is_slow_or_costs_the_worker(judged, math):
    assert max(row[5] for row in judged) < 5.0
    assert {row[4].status for row in judged} == {"scored"}
    assert math._worker.started == 1


@pytest.mark.parametrize(
    ("response", "score", "reason"),
    [
        ("\\boxed{42}", 1.0, "equal as text"),
        ("\\boxed{42.0}", 1.0, "equal as exact numbers"),
        ("42", 0.0, "no \\boxed{...}"),
        ("#### 42", 0.0, "no \\boxed{...}"),
        ("\\boxed{41} no, \\boxed{42}", 1.0, "equal as text"),
        ("\\boxed{42} no, \\boxed{41}", 0.0, "not equal"),
        ("<think>\\boxed{42}</think> so it is 42", 0.0, "no \\boxed{...}"),
        ("<think>\\boxed{41}</think>\\boxed{42}", 1.0, "equal as text"),
        ("\\boxed{41}</think>\\boxed{42}", 1.0, "equal as text"),
        ("<think>so it is \\boxed{42}", 0.0, "no \\boxed{...}"),
        ("\\boxed{42", 0.0, "\\boxed{ is not closed"),
        ("\\boxed 42", 0.0, "\\boxed without {"),
        ("\\boxed{}", 0.0, "empty \\boxed{}"),
        ("\\boxed{" + "1" * 401 + "}", 0.0, "answer longer than 400 characters"),
        ("", 0.0, "no \\boxed{...}"),
    ],
)
def test_the_answer_is_what_stands_in_the_last_box_after_the_reasoning(math, response, score, reason):
    verdict = math.score(response, prompt("42"))
    assert (verdict.status, verdict.score, verdict.reason) == ("scored", score, reason)


def test_an_empty_ground_truth_scores_zero_with_a_reason(math):
    for gold in ("", "  \n"):
        verdict = math.score("\\boxed{}", prompt(gold))
        assert (verdict.status, verdict.score, verdict.reason) == ("scored", 0.0, "the ground truth is empty")


def test_a_whole_solution_as_ground_truth_counts_by_its_box(math):
    assert math.score("\\boxed{7}", prompt("We add and get \\boxed{7}.")).score == 1.0
    assert math.score("\\boxed{8}", prompt("We add 8 and get \\boxed{7}.")).score == 0.0


def test_the_answer_may_follow_a_mark():
    verifier = MathAnswer(answer_after="####")
    assert verifier.score("2+2=4\n#### 1,004 \nthat is it", prompt("1004")).score == 1.0
    assert verifier.score("#### 5\n#### 4", prompt("4")).score == 1.0
    assert verifier.score("#### 4", prompt("2+2 is 4\n#### 4")).score == 1.0
    assert verifier.score("\\boxed{4}", prompt("4")).reason == "no '####'"
    assert verifier.score("4 ####", prompt("4")).reason == "nothing after '####'"
    assert verifier.score("#### 4 or 5", prompt("4")).score == 0.0


def test_lenient_takes_the_last_number_or_a_short_whole_text():
    strict, lenient = MathAnswer(), MathAnswer(lenient=True)
    for response, gold, score in [
        ("The answer is 42.", "42", 1.0),
        ("It is 42.", "42", 1.0),
        ("So 41 it is", "42", 0.0),
        ("It is 42.", "42", 1.0),
        ("So 41 it is", "42", 0.0),
        ("First 41, then $1,042.50 remain", "1042.5", 1.0),
        ("It is 42 and not 41.", "42", 0.0),
        ("3/4", "0.75", 1.0),
        ("Tuesday", "Tuesday", 1.0),
        ("no number here", "42", 0.0),
        ("\\boxed{41} or rather 42", "42", 0.0),
        ("", "42", 0.0),
    ]:
        assert lenient.score(response, prompt(gold)).score == score, response
        assert strict.score(response, prompt(gold)).score == 0.0


ATTACKS = [
    "9^{9^{9^9}}", "10^8!", "(10^8)!", "((3!)!)!", "(x!)!", "99999999!", "x!!!!", "\\binom{10^9}{5\\cdot10^8}",
    "\\binom{999999999}{x}", "\\sum_{k=1}^{10^9}k", "\\prod_{k=1}^{10^9}k", "\\int_0^1 x^xdx", "\\lim_{n\\to\\infty}n",
    "\\sin^{200}x", "\\sin^{99}x", "x^{99999}", "(x+1)^{9999}", "((x^{999})^{999})^{999}", "(2^{9999})^{9999}",
    "e^{e^{e^{e^{e^{x}}}}}", "x^{x^{x^{x^{x}}}}", "\\pi^{\\pi^{\\pi^{\\pi}}}", "\\exp(\\exp(\\exp(\\exp(x))))",
    "\\sinh(\\sinh(\\sinh(\\sinh(9x))))", "\\tan(10^{9999})", "\\lfloor 10^{9999}\\pi\\rfloor", "\\sqrt[99999]{x}",
    "\\operatorname{eye}(99999)", "__import__('os').getpid()", "().__class__.__mro__", "lambda: 0", "eval(42)",
    "1+" * 199 + "1", "x+" * 199 + "x", "(" * 190 + "x" + ")" * 190, "((" * 150, "\\frac{1}{" * 40 + "x" + "}" * 40,
    "x^{" * 60 + "x" + "}" * 60, "\\sqrt{" * 18 + "x" + "}" * 18, "1/" * 199 + "1", "9" * 400, "0." + "3" * 390, "1," * 199 + "1",
    "\\text{" * 60, "\\{" * 130, "^(" * 150, "\\pm " * 70, "x=" * 150, "\\cup " * 60, "million\\pm" * 38, "\\text{a}x" * 40 + "=1",
    "aa " * 130, "\\frac" * 70, "&" * 300, "\x00", "42\x00", "\ud800", "\u200b42\u200b", "\u0664\u0662", "4\u0662", "\U0001d7d2x",
    "nan", "inf", "-inf", "1e9999", "1e-9999", "0x2a", "4_2", "\\unicode{42}", "\\input{/etc/passwd}",
]  # fmt: skip


@pytest.mark.parametrize("gold", ["42", "x+1", "\\pi", "x^2+y^2=25", "\\{1,2\\}"])
def test_attacks_score_zero_in_bounded_time_and_lose_no_worker(math, gold):
    started = math._worker.started
    for answer in ATTACKS:
        start = time.perf_counter()
        verdict = math.score(f"\\boxed{{{answer}}}", prompt(gold))
        assert (verdict.status, verdict.score) == ("scored", 0.0), (answer, verdict)
        assert time.perf_counter() - start < 5.0, answer
        assert "\n" not in verdict.reason and verdict.reason.isprintable()
    assert math._worker.started <= started + 1  # one, where this is the first question


@pytest.mark.parametrize("options", [{}, {"lenient": True}, {"answer_after": "####"}])
def test_huge_responses_take_milliseconds(options):
    verifier = MathAnswer(**options)
    for response in [
        "a" * 400_000, "\\boxed{" * 60_000, "\\boxed" * 70_000, "{" * 400_000, "\\boxed{" + "{" * 400_000, "</think>" * 50_000,
        "<think>" * 50_000, "\\" * 400_000, "\\boxed{" + "\\" * 400_000 + "}", "\x00" * 400_000, "\ud800" * 400_000, "9" * 400_000,
        "#### " * 80_000, "(" * 3000 + "42" + ")" * 3000, "\\boxed{" + "(" * 3000 + "42" + ")" * 3000 + "}", " " * 400_000,
    ]:  # fmt: skip
        start = time.perf_counter()
        verdict = verifier.score(response, prompt("42"))
        assert (verdict.status, verdict.score) == ("scored", 0.0), response[:30]
        assert time.perf_counter() - start < 1.0, response[:30]
    assert verifier.score("x" * 400_000 + "\\boxed{42} #### 42", prompt("42")).score == 1.0
    assert verifier.score("\\boxed{41} #### 41", prompt("42+x" * 100_000)).score == 0.0


PIECES = [
    "1", "42", "x", "A", " ", ",", "(", ")", "[", "]", "{", "}", "\\{", "\\}", "\\frac", "\\sqrt", "\\text{", "\\text{ cm}", "\\pm",
    "\\cup", "\\in", "=", "<", "\\leq", "^", "_", "!", "%", "$", "\\$", ".", "-", "+", "|", "or", "and", "\\infty", "\\circ", "½", "²",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "\x00", "\ud800", "\\overline{", "\\boxed{", "cm", "million", "\\mathbb{R}",
    ";", ":", "'", "\\", "\n", "9" * 20, "e", "(A)", "\\langle", "0.\\overline{3}", "1,000", "\\color{red}",
]  # fmt: skip


def test_no_text_makes_it_fail(math):
    golds = [
        "42",
        "\\frac{1}{2}",
        "x+1",
        "(1,2)",
        "[0,1)",
        "x=5",
        "B",
        "Tuesday",
        "\\pm 3",
        "10\\text{ cm}",
        "50\\%",
        "1010_2",
        "x>3",
    ]
    draw = random.Random(5)
    for _ in range(1500):
        answer = "".join(draw.choice(PIECES) for _ in range(draw.choice([2, 5, 12, 40])))
        verdict = math.score(f"\\boxed{{{answer}}}", prompt(draw.choice(golds)))
        assert verdict.status == "scored" and verdict.score in (0.0, 1.0), (answer, verdict)


def test_integers_are_judged_fast_and_without_a_worker():
    verifier = MathAnswer()
    rows = [(f"so \\boxed{{{n}}}", prompt(str(n + n % 2))) for n in range(2000)]
    start = time.process_time()
    scores = [verifier.score(response, row).score for response, row in rows]
    seconds = time.process_time() - start
    assert scores == [1.0 - n % 2 for n in range(2000)]
    assert verifier._worker.started == 0
    assert seconds < 2000 / 20_000  # five times the time a quiet core takes for 100,000 a second
