"""One spelling."""

import pytest

from mimosa.rewards.latex import canonical, closing, compact


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$\\left( \\dfrac12 ,\\, 3 \\right)$.", "(\\frac{1}{2},3)"),
        ("\\frac1{23}", "\\frac{1}{23}"),
        ("\\frac{1}2", "\\frac{1}{2}"),
        ("\\frac{1}{2}3", "\\frac{1}{2}3"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("sqrt(x+(1))", "\\sqrt{x+(1)}"),
        ("x^(n+1)", "x^{n+1}"),
        ("x^10y", "x^{10}y"),
        ("x**2", "x^{2}"),
        ("x_12", "x_{12}"),
        ("x²³", "x^{23}"),
        ("3½", "3\\frac{1}{2}"),
        ("√2+π", "\\sqrt{2}+\\pi"),
        ("２．５", "2.5"),
        ("−∞", "-\\infty"),
        ("2 pi", "2\\pi"),
        ("pizza", "pizza"),
        ("\\text{ cm }", "cm"),
        ("5\\,\\mathrm{cm}", "5\\text{cm}"),
        ("\\mathrm{e}^x", "e^{x}"),
        ("\\operatorname{sin}x", "\\sin x"),
        ("1{,}000", "1000"),
        ("1,\\!000", "1000"),
        ("1\\,000", "1000"),
        ("{,}", ","),
        ("\\$5", "\\dollar 5"),
        ("$5", "\\dollar 5"),
        ("$5$", "5"),
        ("50\\%", "50%"),
        ("\\varnothing", "\\emptyset"),
        ("x\\le5", "x\\leq5"),
        ("x<=5", "x\\leq 5"),
        ("x=+3", "x=3"),
        ("{{42}}", "42"),
        ("\\boxed{42}", "42"),
        ("**42**", "42"),
        ("\\\\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_canonical(text, wanted):
    assert compact(canonical(text)) == compact(wanted)


def test_digits_keep_their_distance():
    assert compact(canonical("4 2")) == "4 2"
    assert compact(canonical("4\\,2")) == "4 2"
    assert compact(canonical("4 + 2")) == "4+2"


def test_closing():
    assert closing("(a[b]{c})d", 0) == 8
    assert closing("(a]", 0) == -1
    assert closing("((", 0) == -1
