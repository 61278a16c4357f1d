"""Where the program stands in a response: a fenced block, or the whole text."""

from __future__ import annotations

import re

from .extraction import after_reasoning

_PYTHON = ("python", "py", "python3", "py3", "")


def program(response: str, entry_point: str = "") -> str:
    """The last fenced Python block after the reasoning, preferably one that defines `entry_point`; without a fence the text.

    A block that is not closed runs to the end. Blocks of other languages are passed over.
    """
    text = after_reasoning(response)
    blocks = _blocks(text)
    if not blocks:
        return text
    python = [body for language, body in blocks if language.lower() in _PYTHON]
    tagged = [body for language, body in blocks if language and language.lower() in _PYTHON]
    defines = re.compile(
        rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(entry_point)}\b|^{re.escape(entry_point)}[ \t]*[:=]",
        re.MULTILINE,
    )
    defining = [body for body in python if entry_point and defines.search(body)]
    chosen = defining or tagged or python
    return chosen[-1] if chosen else ""


def _blocks(text: str) -> list[tuple[str, str]]:
    """Language and body of every fenced block, in order."""
    found: list[tuple[str, str]] = []
    inside: tuple[int, str, str] | None = None
    body: list[str] = []
    for line in text.splitlines(keepends=True):
        fence = _fence(line)
        if inside is None:
            inside, body = fence, []
        elif fence and fence[1].startswith(inside[1]) and not fence[2]:
            found.append((inside[2], "".join(body)))
            inside = None
        else:
            body.append(_shifted(line, inside[0]))
    if inside is not None:
        found.append((inside[2], "".join(body)))
    return found


def _fence(line: str) -> tuple[int, str, str] | None:
    """Indentation, marks and language of a line that is a fence. No pattern: a long line must not cost its square."""
    bare = line.lstrip(" \t")
    mark = bare[:1]
    info = bare.lstrip(mark) if mark in ("`", "~") else bare
    marks = len(bare) - len(info)
    if marks < 3 or "`" in info:
        return None
    return len(line) - len(bare), mark * marks, (info.split(maxsplit=1) or [""])[0]


def _shifted(line: str, indent: int) -> str:
    """`line` without as much of its indentation as the fence had."""
    return line[min(indent, len(line) - len(line.lstrip(" \t"))) :]
