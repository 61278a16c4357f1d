r"""Whether an answer equals the ground truth.

The order: the same text; the same canonical text; hedges; then shape against shape down to single values, each of which is
compared as an exact number, as words, or, when nothing speaks against it, by the algebra of a worker process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from . import quantity
from .guards import refusal, stray, too_deep
from .hedges import hedge
from .latex import canonical, compact
from .rational import rational
from .shape import Shape, is_single, shape
from .steps import note
from .words import without_label, words_of

GOLD_CHARS = 2000  # a longer ground truth is compared as text alone

_CLOSED_INFINITY = re.compile(r"\\infty ?\]|\[ ?[-+]?\\infty")  # math-verify reads it as an open end
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]+")


class Algebra(Protocol):
    """Decides equality of two canonical texts where arithmetic alone cannot: worker.Worker."""

    def equal(self, kind: str, gold: str, answer: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Gold:
    """A ground truth, read once for all its answers."""

    text: str
    canonical: str
    compact: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether the answer is right, and by which rule."""

    equal: bool
    reason: str


@lru_cache(maxsize=8192)
def read_gold(text: str) -> Gold:
    """The ground truth in the forms that answers are compared with; at most GOLD_CHARS of it are read."""
    plain = canonical(text[:GOLD_CHARS])
    return Gold(text, plain, compact(plain), Shape("value", plain) if too_deep(plain) else shape(plain))


def compare(answer: str, gold: Gold, algebra: Algebra) -> Finding:
    """The finding on `answer`, at most a few hundred characters. Raises what `algebra` raises."""
    text = canonical(answer)
    if not text:
        return Finding(False, "empty answer")
    note("canonical text", "answer {!r}, ground truth {!r}", text, gold.canonical)
    if len(gold.text) <= GOLD_CHARS and compact(text) == gold.compact:
        return Finding(True, "equal after normalisation")
    if len(gold.text) > GOLD_CHARS:
        return Finding(False, "not the same text")
    why = hedge(text, gold.canonical, several=gold.shape.kind in ("list", "set"))
    note("hedges", "{}", why or "none")
    if why:
        return Finding(False, why)
    why = too_deep(text) or too_deep(gold.canonical)
    if why:
        return Finding(False, f"compared as text only: {why}")
    text = without_label(text, gold.canonical)
    node = shape(text)
    note("shape", "answer: {}, ground truth: {}", node.kind, gold.shape.kind)
    return _Comparison(algebra).decide(gold.shape, node)


class _Comparison:
    """One answer against one ground truth; remembers by which rule the last pair of values was decided."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra, self.reason = algebra, "not equal"

    def decide(self, gold: Shape, answer: Shape) -> Finding:
        if is_single(gold) and answer.kind == "list":
            return Finding(False, "hedge: several answers")
        if self.equal(gold, answer):
            return Finding(True, self.reason)
        return Finding(False, self.reason if not self.reason.startswith("equal") else "not equal")

    def equal(self, gold: Shape, answer: Shape) -> bool:
        if compact(gold.text) == compact(answer.text) and gold.kind == answer.kind and gold.mark == answer.mark:
            self.reason = "equal after normalisation"
            return not (gold.name and answer.name and gold.name != answer.name)
        if "equation" in (gold.kind, answer.kind):
            return self._equations(gold, answer)
        if gold.name and answer.name and gold.name != answer.name:
            self.reason = "another name"
            return gold.kind == answer.kind == "value" and _is_formula(answer.text) and self._equations(gold, answer)
        gold, answer = _unwrapped(gold, answer)
        if gold.kind == "value" and answer.kind == "value":
            return self._values(gold.text, answer.text)
        if {gold.kind, answer.kind} == {"list", "set"} or (
            gold.kind == answer.kind and gold.kind in ("list", "set", "union")
        ):
            return self._unordered(gold, answer) or (gold.kind == "union" and self._sets(gold, answer))
        if gold.kind == answer.kind and gold.kind in ("tuple", "matrix"):
            return self._ordered(gold, answer)
        if gold.kind == answer.kind == "relation":
            return self._by_algebra("relation", gold.text, answer.text)
        return self._sets(gold, answer)

    def _ordered(self, gold: Shape, answer: Shape) -> bool:
        if gold.mark != answer.mark or len(gold.parts) != len(answer.parts):
            self.reason = "other brackets or another length"
            return False
        return all(self.equal(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))

    def _unordered(self, gold: Shape, answer: Shape) -> bool:
        """Every element has its own counterpart."""
        if len(gold.parts) != len(answer.parts):
            self.reason = "another number of elements"
            return False
        left = list(answer.parts)
        for part in gold.parts:
            found = next((i for i, other in enumerate(left) if self.equal(part, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _sets(self, gold: Shape, answer: Shape) -> bool:
        """Sets of numbers in different writing, such as a difference and a union."""
        if not any(
            mark in text for mark in ("\\cup", "\\setminus", "\\cap", "\\mathbb") for text in (gold.text, answer.text)
        ):
            self.reason = "another kind of answer"
            return False
        if gold.kind == "value" and "\\mathbb" not in gold.text:
            self.reason = "a set where a value is asked for"
            return False
        if "list" in (gold.kind, answer.kind):
            return False
        if _CLOSED_INFINITY.search(answer.text) and not _CLOSED_INFINITY.search(gold.text):
            self.reason = "infinity as a closed end"
            return False
        return self._by_algebra("set", gold.text, answer.text)

    def _equations(self, gold: Shape, answer: Shape) -> bool:
        if gold.kind != "equation" and not (gold.name and gold.kind == "value"):
            self.reason = "an equation where a value is asked for"
            return False
        if answer.kind != "equation" and not (answer.name and answer.kind == "value"):
            self.reason = "not an equation"
            return False
        texts = [node.text if node.kind == "equation" else f"{node.name}={node.text}" for node in (gold, answer)]
        return self._by_algebra("equation", *texts)

    def _values(self, gold: str, answer: str) -> bool:
        a = quantity.split(gold)
        b = quantity.split(answer, bare=bool(a.unit))
        note("quantity", "answer {}, ground truth {}", b, a)
        if a.base != b.base:
            self.reason = "another numeral base"
            return False
        if a.base:
            self.reason = "equal as numerals"
            return a.value.lstrip("0") == b.value.lstrip("0")
        if (a.unit or a.percent) and (b.unit or b.percent) and (a.unit, a.percent) != (b.unit, b.percent):
            self.reason = "another unit"
            return False
        decided = self._numbers(a, b)
        if decided is not None:
            return decided
        if compact(a.value) == compact(b.value):
            self.reason = "equal after normalisation"
            return a.percent == b.percent
        words = words_of(gold), words_of(answer)
        note("words", "answer {!r}, ground truth {!r}", words[1], words[0])
        if any(words):
            self.reason = "equal as words"
            return words[0] == words[1]
        if a.percent or b.percent:
            a, b = _spelled(a), _spelled(b)
        return self._by_algebra("value", a.value, b.value)

    def _numbers(self, a: quantity.Quantity, b: quantity.Quantity) -> bool | None:
        """Equal as exact numbers; None when one of them is none. A percent sign may be left out of a number beyond 1."""
        gold, answer = rational(a.value), rational(b.value)
        note("exact numbers", "answer {}, ground truth {} (None: not a number by arithmetic)", answer, gold)
        if gold is None or answer is None:
            return None
        self.reason = "equal as exact numbers"
        if a.percent != b.percent and gold == answer and abs(gold) > 1:
            return True
        return _fraction(gold, a.percent) == _fraction(answer, b.percent)

    def _by_algebra(self, kind: str, gold: str, answer: str) -> bool:
        why = refusal(answer) or refusal(gold)
        if kind == "value" and not why:
            why = stray(answer) or stray(gold)
        note("guards", "{}", why or "nothing speaks against algebra")
        if why:
            self.reason = f"compared as text only: {why}"
            return False
        if _case_clash(gold, answer):
            self.reason = "letters of the other case"
            return False
        self.reason = "equal by algebra"
        return self.algebra.equal(kind, gold, answer)


def _unwrapped(gold: Shape, answer: Shape) -> tuple[Shape, Shape]:
    """A set of one element stands for the element when the other side is no set."""
    if gold.kind == "set" and len(gold.parts) == 1 and answer.kind == "value":
        return gold.parts[0], answer
    if answer.kind == "set" and len(answer.parts) == 1 and gold.kind == "value":
        return gold, answer.parts[0]
    return gold, answer


def _fraction(value: Fraction, percent: bool) -> Fraction:
    return value / 100 if percent else value


def _is_formula(text: str) -> bool:
    """Whether another variable occurs, so that x=(y-1)/2 may say what y=2x+1 says."""
    return rational(text) is None and bool(_LETTER.search(text))


def _spelled(value: quantity.Quantity) -> quantity.Quantity:
    return quantity.Quantity(f"\\frac{{{value.value}}}{{100}}") if value.percent else value


def _case_clash(gold: str, answer: str) -> bool:
    """Whether the answer writes a variable of the ground truth in the other case: a for A."""
    ours = set("".join(_LETTER.findall(gold)))
    return any(char not in ours and char.swapcase() in ours for char in "".join(_LETTER.findall(answer)))
