"""What the checker process decides, asked directly."""

import pytest

from mimosa.rewards import checker


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("\\frac{\\pi}{2^{99}}", "\\frac{\\pi}{2^{98}}", False),  # 1e-30 apart
        ("\\frac{x}{2^{9999}}", "\\frac{x}{2^{9998}}", False),
        ("x+10^{-90}", "x", False),
        ("\\sqrt{2}", "1.41421356237309504880168872420969807857", False),
        ("0.1\\pi", "\\frac{\\pi}{10}", True),
        ("0.333x", "\\frac{x}{3}", False),
        ("|x|", "x", False),
        ("\\sqrt{x^{2}}", "|x|", True),
        ("\\sqrt{x}\\sqrt{y}", "\\sqrt{xy}", True),  # equal wherever both sides are real
        ("\\sqrt{x^{2}-2x+1}", "x-1", False),
        ("(x-2)^{2}", "x^{2}-4x+4", True),  # zero at a point that is tried
        ("x-x", "0", True),
        ("2(3)", "6", True),  # the grammar alone reads a mixed number
        ("(2)(3)", "5", False),
        ("2\\frac{1}{3}", "\\frac{7}{3}", True),
        ("(-1)^{n}", "(-1)^{n+2}", True),
        ("(-1)^{n}", "(-1)^{n+1}", False),
        ("n!", "n(n-1)!", True),
        ("i^{2}", "-1", True),
        ("\\ln x", "\\log x", False),
        ("a+b", "a-b", False),
        ("\\frac{1}{x-x}", "1", False),
        ("\\frac{1", "\\frac{1", False),  # unreadable
    ],
)
def test_values(gold, answer, same):
    assert checker.equal("value", gold, answer) is same
    assert checker.equal("value", answer, gold) is same


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("x+y=2", "2x+2y=4", True),
        ("x+y=2", "-x-y=-2", True),
        ("x+y=2", "x+y=3", False),
        ("x+y=2", "x-y=2", False),
        ("y=2x+1", "x=\\frac{y-1}{2}", True),
        ("\\frac{x^{2}}{4}+y^{2}=1", "x^{2}+4y^{2}=4", True),
        ("\\frac{x}{2^{99}}=1", "\\frac{x}{2^{98}}=1", False),
    ],
)
def test_equations(gold, answer, same):
    assert checker.equal("equation", gold, answer) is same


def test_sets():
    assert checker.equal("set", "\\mathbb{R}\\setminus\\{0\\}", "(-\\infty,0)\\cup(0,\\infty)")
    assert checker.equal("set", "(0,2)\\cup(1,3)", "(0,3)")
    assert not checker.equal("set", "\\mathbb{R}\\setminus\\{0\\}", "(-\\infty,0)\\cup[0,\\infty)")
    assert not checker.equal("set", "(0,3)", "(0,1)\\cup(1,3)")
