"""What kind of thing an answer is."""

import pytest

from mimosa.rewards.latex import canonical
from mimosa.rewards.shape import is_single, shape, split_top


def tree(text):
    node = shape(canonical(text))
    return (node.kind, node.mark, node.name, [part.text.strip() for part in node.parts])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("42", ("value", "", "", [])),
        ("1,234", ("value", "", "", [])),
        ("1, 234", ("list", "", "", ["1", "234"])),
        ("(1,234)", ("tuple", "()", "", ["1", "234"])),
        ("(1,234, 5)", ("tuple", "()", "", ["1234", "5"])),
        ("1,2 and 3", ("list", "", "", ["1", "2", "3"])),
        ("1 \\text{ or } 2", ("list", "", "", ["1", "2"])),
        ("1; 2", ("list", "", "", ["1", "2"])),
        ("[0,1)", ("tuple", "[)", "", ["0", "1"])),
        ("\\{1,2\\}", ("set", "", "", ["1", "2"])),
        ("\\{5\\}", ("set", "", "", ["5"])),
        ("\\{\\}", ("set", "", "", [])),
        ("\\{\\pm1,2\\}", ("set", "", "", ["1", "-1", "2"])),
        ("\\pm 3", ("list", "", "", ["3", "- 3"])),
        ("x=5", ("value", "", "x", [])),
        ("5=x", ("value", "", "x", [])),
        ("f(x)=2x", ("value", "", "f(x)", [])),
        ("m\\angle ABC=30", ("value", "", "m\\angle ABC", [])),
        ("(x,y)=(1,2)", ("tuple", "()", "(x,y)", ["1", "2"])),
        ("41=42", ("equation", "", "", [])),
        ("x^2=4", ("equation", "", "", [])),
        ("x\\in[1,2]", ("tuple", "[]", "x", ["1", "2"])),
        ("x>3", ("tuple", "()", "x", ["3", "\\infty"])),
        ("3\\ge x", ("tuple", "(]", "x", ["-\\infty", "3"])),
        ("5>x\\ge2", ("tuple", "[)", "x", ["2", "5"])),
        ("x<1 \\text{ or } x>2", ("union", "", "x", ["x<1", "x>2"])),
        ("x<1 \\text{ and } x>2", ("list", "", "", ["x<1", "x>2"])),
        ("\\{x\\mid x>3\\}", ("tuple", "()", "", ["3", "\\infty"])),
        ("(0,1)\\cup[2,3]", ("union", "", "", ["(0,1)", "[2,3]"])),
        ("x\\neq3", ("relation", "", "", [])),
        ("x<y", ("relation", "", "", [])),
        ("(x+1)(x-1)", ("value", "", "", [])),
        ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", ("matrix", "2x2", "", ["1", "2", "3", "4"])),
        ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", ("value", "", "", [])),
        ("\\begin{pmatrix}1&2\\\\3\\end{pmatrix}", ("value", "", "", [])),
    ],
)
def test_shapes(text, wanted):
    assert tree(text) == wanted


def test_is_single():
    assert is_single(shape("42")) and is_single(shape("\\{42\\}"))
    assert not is_single(shape("1, 2")) and not is_single(shape("(1,2)"))


def test_split_top_minds_brackets():
    assert split_top("a,(b,c),[d;e)", ",;") == ["a", "(b,c)", "[d;e)"]
