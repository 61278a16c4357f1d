"""Where the answer stands."""

import pytest

from mimosa.rewards import extraction


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{42}", "42"),
        ("\\boxed{ 42 }", "42"),
        ("\\boxed {42}", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}} and }", "\\{1,2\\}"),
        ("\\boxed{\\left\\{1\\right.}", "\\left\\{1\\right."),  # the escaped brace closes nothing
        ("\\boxed{1}\\boxed{2}", "2"),
        ("\\boxed{\\boxed{7}}", "\\boxed{7}"),
        ("\\boxed{41 or \\boxed{42}}", "41 or \\boxed{42}"),  # the outer box is what is shown
        ("\\boxed{x}" + "y" * 1000, "x"),
        ("\\boxed{" + "9" * 400 + "}", "9" * 400),
    ],
)
def test_boxed(text, answer):
    assert extraction.boxed(text) == (answer, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("42", "no \\boxed{...}"),
        ("\\boxed{1} \\boxed{2", "\\boxed{ is not closed"),
        ("\\boxed{1} \\boxed", "\\boxed without {"),
        ("\\boxed{ }", "empty \\boxed{}"),
        ("\\boxed{" + "9" * 401 + "}", "answer longer than 400 characters"),
        ("\\boxed{{" + "9" * 399 + "}}", "answer longer than 400 characters"),
    ],
)
def test_no_box(text, reason):
    assert extraction.boxed(text) == (None, reason)


def test_after_reasoning():
    assert extraction.after_reasoning("a</think>b</think>c") == "c"
    assert extraction.after_reasoning("a<think>b") == "a"
    assert extraction.after_reasoning("<think>a</think>b<think>c") == "b"
    assert extraction.after_reasoning("abc") == "abc"


def test_after_mark():
    assert extraction.after_mark("#### 1\n####  2 \n3", "####") == ("2", "")
    assert extraction.after_mark("1", "####") == (None, "no '####'")
    assert extraction.after_mark("1 ####\n2", "####") == (None, "nothing after '####'")
    assert extraction.after_mark("#### " + "1" * 401, "####") == (None, "answer longer than 400 characters")


def test_last_line():
    assert extraction.last_line("a\n b \n\n") == ("b", "")
    assert extraction.last_line(" \n") == (None, "empty response")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So we have 3 and then -4.5.", "-4.5"),
        ("It costs $1,250 in all", "1,250"),
        ("about 3/4 of it", "3/4"),
        ("rises by 12%", "12%"),
        ("x = 5", "x = 5"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
        ("Tuesday", "Tuesday"),
    ],
)
def test_loose(text, answer):
    assert extraction.loose(text) == (answer, "")
