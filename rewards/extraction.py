"""Where in a response the answer stands.

Each function returns (answer, reason): the answer's text without surrounding spaces, or None and why there is none. All are
linear in the response and look at no more than a window of it once they know where.
"""

from __future__ import annotations

import re

ANSWER_CHARS = 400  # a longer answer is not one

_BOX = "\\boxed"
_OPEN_THINK, _CLOSE_THINK = "<think>", "</think>"
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s*/\s*\d+)?(?:\s*\\?%)?", re.ASCII)
_PROSE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|(?:is|it|so|we)(?![A-Za-z]))", re.IGNORECASE)

Extract = tuple[str | None, str]


def after_reasoning(response: str) -> str:
    """What stands after the last `</think>`, up to a `<think>` that is never closed."""
    end = response.rfind(_CLOSE_THINK)
    if end >= 0:
        response = response[end + len(_CLOSE_THINK) :]
    start = response.find(_OPEN_THINK)
    return response if start < 0 else response[:start]


def boxed(text: str) -> Extract:
    """The content of the last `\\boxed{...}`, braces matched; of the outermost one when boxes are nested."""
    start = text.rfind(_BOX)
    if start < 0:
        return None, "no \\boxed{...}"
    content, reason = _box_at(text, start)
    while content is not None:
        outer = text.rfind(_BOX, max(0, start - ANSWER_CHARS), start)
        if outer < 0:
            break
        around, _ = _box_at(text, outer)
        if around is None or text.find("{", outer) + len(around) < start:
            break
        start, content = outer, around
    if content is None:
        return None, reason
    content = content.strip()
    return (content, "") if content else (None, "empty \\boxed{}")


def after_mark(text: str, mark: str) -> Extract:
    """What follows the last `mark` on its line, e.g. `#### 42`."""
    start = text.rfind(mark)
    if start < 0:
        return None, f"no {mark!r}"
    start += len(mark)
    line = text[start : start + ANSWER_CHARS + 2].lstrip(" \t").split("\n", 1)[0].strip()
    if len(line) > ANSWER_CHARS:
        return None, f"answer longer than {ANSWER_CHARS} characters"
    return (line, "") if line else (None, f"nothing after {mark!r}")


def last_line(text: str) -> Extract:
    """The last line that is not blank."""
    line = text.rstrip()
    line = line[line.rfind("\n") + 1 :].strip()
    if len(line) > ANSWER_CHARS:
        return None, f"answer longer than {ANSWER_CHARS} characters"
    return (line, "") if line else (None, "empty response")


def loose(text: str) -> Extract:
    """The whole text when it is short and not prose, else the last number in its last ANSWER_CHARS characters."""
    whole = text.strip()
    if not whole:
        return None, "empty response"
    tail = whole[-ANSWER_CHARS:]
    numbers = [match.group() for match in _NUMBER.finditer(tail) if any(char.isdigit() for char in match.group())]
    if len(whole) <= ANSWER_CHARS and (not numbers or not _PROSE.search(whole)):
        return whole, ""
    return (numbers[-1], "") if numbers else (None, "no \\boxed{...} and no number")


def _box_at(text: str, start: int) -> Extract:
    """The content of the box whose backslash is at `start`; an escaped brace does not count."""
    opening = start + len(_BOX)
    gap = text[opening : opening + ANSWER_CHARS]
    opening += len(gap) - len(gap.lstrip())
    if text[opening : opening + 1] != "{":
        return None, "\\boxed without {"
    closing = text.find("}", opening, opening + ANSWER_CHARS + 2)
    content = text[opening + 1 : closing]
    if closing >= 0 and "{" not in content and "\\" not in content:
        return content, ""
    return _braced(text, opening)


def _braced(text: str, opening: int) -> Extract:
    depth, at, last = 0, opening, min(len(text), opening + ANSWER_CHARS + 2)
    while at < last:
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[opening + 1 : at], ""
        at += 1
    return None, "\\boxed{ is not closed" if last == len(text) else f"answer longer than {ANSWER_CHARS} characters"
