r"""Answers that do not commit themselves: several values where one is asked for, or one in a way that cannot be wrong.

`hedge` names what is wrong with an answer, or returns "". A mark that the ground truth bears itself is no hedge.
"""

from __future__ import annotations

import re

_MARKS = (
    (re.compile(r"\\approx(?![a-zA-Z])|~="), "an approximation sign"),
    (re.compile(r"\\to(?![a-zA-Z])|\\mapsto"), "an arrow"),
    (re.compile(r"\\ldots|\.\.\."), "an ellipsis"),
    (re.compile(r"\?"), "a question mark"),
    (re.compile(r"\\newline"), "several lines"),
)
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])|\+/-|\+-")
_EQUALS = re.compile(r"(?<![<>!:])=")
_CHOICE_WORD = re.compile(
    r"(?<![A-Za-z\\])(?:or|either|maybe|perhaps|possibly|not|nor|but|approximately|approx|about|around|roughly)(?![A-Za-z])",
    re.IGNORECASE,
)


def hedge(answer: str, gold: str, several: bool) -> str:
    """Why canonical `answer` is no answer to a question whose canonical answer is `gold`; `several`: it is a list or set."""
    if not several and _PLUS_MINUS.search(answer) and not _PLUS_MINUS.search(gold):
        return "hedge: a plus-minus sign"
    for pattern, name in _MARKS:
        if pattern.search(answer) and not pattern.search(gold):
            return f"hedge: {name}"
    if len(_EQUALS.findall(answer)) > 1 and not chained(gold) and chained(answer):
        return "hedge: chained equalities"
    word = _CHOICE_WORD.search(answer)
    if word and any(char.isdigit() for char in gold) and not _CHOICE_WORD.search(gold) and word.group().lower() != "or":
        return f"hedge: {word.group().lower()!r}"
    return ""


def chained(text: str) -> bool:
    """Whether one element of a list holds two equals signs."""
    return any(len(_EQUALS.findall(part)) > 1 for part in re.split(r"[,;]|\\text\{ ?(?:and|or) ?\}", text))
