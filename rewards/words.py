"""Answers that are words, and the letters that label choices: Tuesday, New York, (B), (B) 7."""

from __future__ import annotations

import re

_PIECE = (
    r"\\text\{[^{}]*\}|(?<![A-Za-z])[A-Za-z]{3,}(?![A-Za-z])"
    r"|[ ,.']|(?<=[A-Za-z])-(?=[A-Za-z])|(?<![A-Za-z])[A-Za-z](?= )|(?<= )[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])[Nn][Oo](?![A-Za-z])"
)
_WORDS = re.compile(f"(?:{_PIECE})++")
_LONG_WORD = re.compile(r"[A-Za-z]{3}|\\text|(?i:no)\.?$")  # without one, letters and spaces are variables
_TEXT = re.compile(r"\\text\{ ?([^{}]*?) ?\}")
_PUNCTUATION = re.compile(r"[.,'\"()\-:]")
_LABELLED = re.compile(r"(?:\\text\{)? ?\(?([A-J])[).:] ?\}?(.*)", re.DOTALL)
_LABEL = re.compile(r"(?:\\text\{ ?)?\(?([A-J])\)?[.:]?(?: ?\})?")
_NOT_A_COMMENT = re.compile(r"(?<![A-Za-z\\])(?:[A-J]|and|but|is|isn't|nor|not|or|wrong)(?![A-Za-z])|[^ -~]")


def words_of(text: str) -> str | None:
    """Words of canonical text in small letters, without fonts and punctuation; None for mathematics. One letter keeps its case."""
    label = _LABEL.fullmatch(text)
    if label:
        return label.group(1)
    if not (_LONG_WORD.search(text) and _WORDS.fullmatch(text)) and not text.startswith("\\text{"):
        return None
    plain = " ".join(_PUNCTUATION.sub(" ", _TEXT.sub(r" \1 ", text)).split())
    return plain if len(plain) == 1 else plain.lower()


def without_label(text: str, gold: str) -> str:
    """The answer `(B) 7` is B where B is asked for, and 7 where 7 is."""
    match = _LABELLED.fullmatch(text)
    if match is None or _NOT_A_COMMENT.search(match.group(2)):
        return text
    if _LABEL.fullmatch(gold):
        return match.group(1)
    rest = match.group(2).strip()
    return rest if rest and match.group(1) not in gold else text
