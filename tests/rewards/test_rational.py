"""Exact numbers: against Fractions computed another way, and within their bounds."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimosa.rewards.latex import canonical
from mimosa.rewards.rational import integer, rational

F = Fraction


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", F(42)), ("-42", F(-42)), ("+42", F(42)), ("042", F(42)), (".5", F(1, 2)), ("5.", F(5)), ("1,234.50", F(2469, 2)),
        ("12 345 678", F(12345678)), ("1e3", F(1000)), ("2.5E-3", F(1, 400)), ("2.5\\times10^{3}", F(2500)),
        ("\\frac{3}{4}", F(3, 4)), ("-\\frac{3}{-4}", F(3, 4)), ("3/4/2", F(3, 8)), ("2\\frac{1}{3}", F(7, 3)),
        ("-2\\frac{1}{3}", F(-7, 3)), ("2 1/3", F(7, 3)), ("-2 1/3", F(-7, 3)), ("2\\cdot\\frac{1}{3}", F(2, 3)),
        ("0.\\overline{3}", F(1, 3)), ("1.2\\overline{34}", F(611, 495)), ("2^{10}", F(1024)), ("2^{-2}", F(1, 4)),
        ("-2^{2}", F(-4)), ("(-2)^{2}", F(4)), ("2^{3^{2}}", F(512)), ("4^{\\frac{1}{2}}", F(2)), ("5!", F(120)),
        ("\\binom{5}{2}", F(10)), ("\\sqrt{\\frac{9}{4}}", F(3, 2)), ("2(3+4)", F(14)), ("(2)(3)", F(6)), ("1-2-3", F(-4)),
        ("2\\sqrt{9}", F(6)), ("\\frac{1}{2^{99}}", F(1, 2**99)),
    ],
)  # fmt: skip
def test_values(text, value):
    assert rational(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "-", "1+", "(1", "1)", "4 2", "1.2.3", "12,34", "1,2", "\\sqrt{2}", "\\frac{1}{0}", "1/0", "0^{0}", "0^{-1}", "2^{x}",
        "9^{9^{9}}", "2^{99999}", "501!", "3!!", "(-1)!", "1e99999", "\\binom{10^9}{2}", "2\\frac{4}{3}", "3\\cdot2\\frac{1}{3}",
        "3\\overline{4}", "(" * 30 + "1" + ")" * 30, "1--1", "\\frac{1}", "nan", "inf", "1_0", "0x10", "٤٢", "²",
    ],
)  # fmt: skip
def test_what_is_no_exact_number_or_too_large(text):
    assert rational(text) is None


def test_integer_is_for_plain_integers_alone():
    assert integer("-042") == -42
    for text in ("", "4 2", "4.0", "٤٢", "1_0", "9" * 301, "42\n"):
        assert integer(text) is None


expressions = st.recursive(
    st.integers(0, 30).map(lambda n: (str(n), F(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: (f"({t[0][0]}{t[1]}{t[2][0]})", _applied(t[0][1], t[1], t[2][1]))
    ),
    max_leaves=8,
)


def _applied(a, sign, b):
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[sign]()


@given(expressions)
def test_arithmetic_agrees_with_fractions(expression):
    text, value = expression
    assert rational(canonical(text)) == value


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_none(text):
    assert rational(canonical(text)) is None or isinstance(rational(canonical(text)), F)
