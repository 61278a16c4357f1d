r"""What kind of thing an answer is: a single value, a list, a tuple or interval, a set, a union, a matrix, a relation.

`shape` reads canonical text into a small tree, so that brackets, order and names are compared exactly and only single values
go on to arithmetic. An inequality in one name with plain ends is the interval it stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .latex import compact, unsigned
from .rational import ungrouped

Kind = Literal["value", "list", "tuple", "set", "union", "matrix", "equation", "relation"]
PARTS = 64  # elements of a list; a longer one is compared as text


@dataclass(frozen=True, slots=True)
class Shape:
    """A node: `mark` holds the brackets of a tuple, the size of a matrix; `name` is what it is said to equal, as in x=3."""

    kind: Kind
    text: str
    parts: tuple[Shape, ...] = ()
    mark: str = ""
    name: str = ""


_SEPARATOR_WORD = re.compile(
    r" ?,? ?(?:\\text\{ ?,? ?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])) ?", re.IGNORECASE
)
_RELATION = re.compile(r"(?<!:)=|<|>|\\(?:leq|geq|neq|in)(?![a-zA-Z])")
_NAME = re.compile(
    r"(?:\\(?!frac|sqrt|binom|pi|infty|text\{)[a-zA-Z]++|[A-Za-z' ]|_\{[^{}]*\}|\{[A-Za-z ]+\}|\\text\{[^{}]*\})++"
    r"(?:\^\{-1\})?(?:\([A-Za-z0-9, ]*\))?|\([A-Za-z](?:_\{[^{}]*\})?(?:, ?[A-Za-z](?:_\{[^{}]*\})?)+\)"
)
_MATRIX = re.compile(r"[\[(]? ?\\begin ?\{([a-z]*matrix|array)\} ?(?:\{[^{}]*\})?(.*)\\end ?\{\1\} ?[\])]?", re.DOTALL)
_OPENINGS, _CLOSINGS = "([{", ")]}"
_SUCH_THAT = re.compile(r"\||\\mid(?![a-zA-Z])|:")
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


def shape(text: str, inside: bool = False) -> Shape:
    """The tree of canonical `text`; `inside` brackets a comma between digits separates elements, else it may group thousands."""
    text = text.strip()
    if not inside:
        text = _thousands(text)
    listed = _listed(text)
    if listed is not None:
        return listed
    if ("\\pm" in text or "\\mp" in text) and not (text.startswith("\\{") and text.endswith("\\}")):
        signs = (text.replace("\\pm", "+").replace("\\mp", "-"), text.replace("\\pm", "-").replace("\\mp", "+"))
        return Shape("list", text, tuple(shape(unsigned(part), inside) for part in signs))
    return _related(text) or _united(text) or _bracketed(text) or _matrix(text) or Shape("value", text)


def is_single(node: Shape) -> bool:
    """Whether the node stands for one value, so that a list would be a hedge."""
    return node.kind in ("value", "equation", "relation") or (node.kind == "set" and len(node.parts) == 1)


def split_top(text: str, separators: str) -> list[str]:
    """`text` cut at those of the separator characters that stand outside all brackets."""
    parts, start, depth, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if char in _OPENINGS:
            depth += 1
        elif char in _CLOSINGS:
            depth = max(0, depth - 1)
        elif depth == 0 and char in separators:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _thousands(text: str) -> str:
    """Commas between digits group thousands unless other commas separate elements."""
    return ungrouped(text) if ", " in text or not re.search(r"[(\[{]", text) else text


def _listed(text: str) -> Shape | None:
    worded = _SEPARATOR_WORD.sub(",", text)
    parts = [part.strip() for part in split_top(worded, ",;")]
    if len(parts) < 2 or len(parts) > PARTS or not all(parts):
        return None
    nodes: list[Shape] = []
    for part in parts:
        node = shape(part, inside=True)
        nodes.extend(node.parts if node.kind == "list" else (node,))
    if _is_alternative(text) and all(node.kind == "tuple" and node.name == nodes[0].name != "" for node in nodes):
        return Shape("union", text, tuple(nodes), name=nodes[0].name)
    return Shape("list", text, tuple(nodes))


def _is_alternative(text: str) -> bool:
    """Whether `or` is what separates: x<1 or x>2 is one union."""
    words = {word.strip(" ,{}").removeprefix("\\text{").strip(" ,").lower() for word in _SEPARATOR_WORD.findall(text)}
    return words == {"or"} and len(split_top(text, ",;")) == 1


def _related(text: str) -> Shape | None:
    operators = [match for match in _RELATION.finditer(text) if _at_top(text, match.start())]
    if not operators:
        return None
    starts, ends = [0, *(match.end() for match in operators)], [*(match.start() for match in operators), len(text)]
    sides = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    signs = [match.group() for match in operators]
    if not all(sides):
        return Shape("relation", text)
    if signs == ["="] or signs == ["\\in"]:
        return _named(text, sides, signs[0])
    return _interval(text, sides, signs) or Shape("relation", text)


def _named(text: str, sides: list[str], sign: str) -> Shape:
    left, right = sides
    if sign == "=" and not _is_name(left) and _is_name(right):
        left, right = right, left
    if not _is_name(left):
        return Shape("equation" if sign == "=" else "relation", text)
    node = shape(right, inside=left.startswith("("))
    return Shape(node.kind, node.text, node.parts, node.mark, name=compact(left))


def _is_name(text: str) -> bool:
    return text != "e" and bool(_NAME.fullmatch(text))


def _interval(text: str, sides: list[str], signs: list[str]) -> Shape | None:
    """x>5 is (5, oo), 1<x\\leq 2 is (1, 2], each named x."""
    if any(sign not in _FLIPPED for sign in signs) or len(sides) > 3:
        return None
    if len(sides) == 3:
        if signs[0] in (">", "\\geq"):
            sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
        if any(sign not in ("<", "\\leq") for sign in signs) or not _is_name(sides[1]):
            return None
        low, name, high = sides
        mark = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
        return _ends(text, low, high, mark, name)
    if not _is_name(sides[0]):
        sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
    if not _is_name(sides[0]):
        return None
    name, end = sides
    strict = signs[0] in "<>"
    if signs[0] in ("<", "\\leq"):
        return _ends(text, "-\\infty", end, "()" if strict else "(]", name)
    return _ends(text, end, "\\infty", "()" if strict else "[)", name)


def _ends(text: str, low: str, high: str, mark: str, name: str) -> Shape | None:
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", low + " " + high)):
        return None
    return Shape("tuple", text, (shape(low, True), shape(high, True)), mark, compact(name))


def _united(text: str) -> Shape | None:
    if "\\cup" not in text:
        return None
    parts = [part.strip() for part in text.split("\\cup")]
    if not all(parts) or len(parts) > PARTS or any(part.count("(") + part.count("[") != part.count(")") + part.count("]")
                                                   for part in parts):  # fmt: skip
        return Shape("relation", text)
    return Shape("union", text, tuple(shape(part, inside=True) for part in parts))


def _bracketed(text: str) -> Shape | None:
    braces = text.startswith("\\{") and text.endswith("\\}")
    if compact(text) in ("\\{\\}", "\\emptyset"):
        return Shape("set", text)
    if not braces and not (text[:1] in "([" and text[-1:] in ")]" and len(text) > 2 and _encloses(text)):
        return None
    inner = text[2:-2] if braces else text[1:-1]
    if braces and (_SUCH_THAT.search(inner) or "\\{" in inner):
        return _described(inner) or Shape("relation", text)
    if ", " in inner:
        inner = ungrouped(inner)
    node = _listed(inner)
    if node is None and braces:
        single = shape(inner, inside=True)
        node = single if single.kind == "list" else Shape("list", inner, (single,))
    if node is None:
        return None
    return Shape("set", text, node.parts) if braces else Shape("tuple", text, node.parts, text[0] + text[-1])


def _described(inner: str) -> Shape | None:
    """The interval or union that a set {x | ...} is."""
    name, *conditions = _SUCH_THAT.split(inner, maxsplit=1)
    name = re.sub(r" ?\\in ?\\mathbb ?\{R\} ?$", "", name).strip()
    node = shape(conditions[0], inside=True) if conditions else None
    if node is None or node.name != compact(name) or node.kind not in ("tuple", "union"):
        return None
    return Shape(node.kind, node.text, node.parts, node.mark)


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last character, whatever its kind: [0,1) is one interval."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in _OPENINGS) - (char in _CLOSINGS)
        if depth == 0:
            return at == len(text) - 1
    return False


def _matrix(text: str) -> Shape | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match.group(1) in ("vmatrix", "Vmatrix"):
        return None
    rows = [row for row in (part.strip() for part in match.group(2).split("\\newline")) if row]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1 or len(rows) * len(cells[0]) > PARTS:
        return None
    nodes = tuple(shape(cell, inside=True) for row in cells for cell in row)
    return Shape("matrix", text, nodes, f"{len(rows)}x{len(cells[0])}")


def _at_top(text: str, at: int) -> bool:
    depth = 0
    for char in text[:at]:
        depth += (char in _OPENINGS) - (char in _CLOSINGS)
    return depth <= 0
