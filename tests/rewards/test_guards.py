"""What never reaches the worker, and what does."""

import time

import pytest

from mimosa.rewards.guards import refusal, stray, too_deep
from mimosa.rewards.latex import canonical


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}", "x^{9^9}", "9^(9^9)", "x^{y^{z^{w}}}", "2^{3}^{4}", "x^{99999}", "\\sin^{200}x", "\\sqrt[99999]{x}", "12345!",
        "(9^9)!", "(12)!", "n!!", "((n)!)!", "x^{n!}", "\\binom{n}{10000}", "\\binom{9^9}{n}", "\\sum_{k=1}^nk", "\\int xdx",
        "\\prod_kk", "\\lim_{x\\to0}x", "\\gcd(4,6)", "\\operatorname{eye}(4)", "__import__", "abcd+1", "x'", "x\x00", "x\ud800", "é",
        "2 3", "x^\\circ", "1" * 151, "x" + "+x" * 81, "(" * 21 + "x" + ")" * 21, "x" * 601, "\\exp(\\exp(\\exp(x)))",
    ],
)  # fmt: skip
def test_refused(text):
    assert refusal(canonical(text))


@pytest.mark.parametrize(
    "text",
    [
        "x^2+2x+1", "\\frac{\\sqrt{3}}{2}", "e^{x^2}", "e^{-x^2/2}", "(n+1)!", "n!", "\\binom{n}{2}", "2^{n+1}", "x^{10}", "x^{2024}",
        "\\sin^2x", "\\sqrt[3]{x}", "\\ln(x+1)", "a_{n+1}", "|x-1|", "\\lfloor x\\rfloor", "3+4i", "(-\\infty,0)\\cup(1,2)", "x<5",
        "y=2x+1", "\\mathbb{R}\\setminus\\{0\\}", "xyz", "\\alpha\\beta",
    ],
)  # fmt: skip
def test_let_through(text):
    assert refusal(canonical(text)) == ""


def test_a_single_value_holds_no_set_bracket_or_infinity():
    assert stray("42\\cdot\\{1\\}") and stray("[42]") and stray("\\frac{1}{\\infty}") and stray("\\mathbb{R}")
    assert stray("\\sqrt[3]{x}") == ""


def test_depth_counts_brackets_of_every_kind():
    assert too_deep("([{" * 7) and not too_deep("([{" * 6)
    assert not too_deep("()" * 100)


def test_hostile_nesting_is_judged_in_linear_time():
    start = time.perf_counter()
    for text in ("x^{" * 19 + "x" + "}" * 19, "x^{" * 130, "\\binom{" * 40, "(x)!" * 100, "x^{1}" * 79, "((x)!)!" * 50):
        refusal(text)
    assert time.perf_counter() - start < 0.2
