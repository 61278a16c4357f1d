r"""Texts that no computer algebra system should see: they are compared as text alone.

`refusal` names what is wrong with canonical text, or returns "". Commands and characters go by a list of what is known to be
harmless; powers, factorials and binomials by their size, since the library would try to evaluate them.
"""

from __future__ import annotations

import re

DEPTH = 20  # nested brackets
DIGITS = 150  # in all
LENGTH = 600  # characters; canonical text may be longer than the answer it came from
EXPONENT_DIGITS = 4
OPERATORS = 80
LEVELS = 2  # of exponents in exponents; e^{x^2} has two

_HARMLESS = (
    "frac sqrt cdot times div pi theta alpha beta gamma delta epsilon varepsilon lambda mu nu rho sigma tau phi varphi psi "
    "omega Delta Gamma Omega Phi Psi Sigma Theta Lambda sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log "
    "exp infty binom lfloor rfloor lceil rceil leq geq neq cup cap setminus emptyset in mathbb overline vec hat bar "
    "circ"
)
_COMMANDS = frozenset(_HARMLESS.split())
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_FOREIGN = re.compile(r"[^0-9a-zA-Z+\-*/^_(){}\[\]|!.,<>= \\]")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_CHAINED = re.compile(r"\^ ?(?:\{[^{}]*\}|[^{}]) ?\^")
_EXPONENT = re.compile(r"\^ ?(\{|\S)")
_NUMERIC_POWER = re.compile(r"(?:[0-9.]|[0-9.] ?[)}]+) ?\^")
_NEIGHBOURS = re.compile(r"[0-9.] +[0-9.]")
_FACTORIAL = re.compile(r"[0-9]{4,} ?!|! ?[)}]* ?!")
_GROUP_FACTORIAL = re.compile(r"(\([^()]*\)|\{[^{}]*\}|[)}]) ?!")
_LARGE = re.compile(r"[0-9]{4,}|[\^!]")
_GROWING = re.compile(r"\\(?:exp|sinh|cosh|tan|Gamma)(?![a-zA-Z])")
_FUNCTION_POWER = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|ln|log|exp) ?\^ ?\{ ?[-+]?[0-9]{3,}")
_ROOT = re.compile(r"\\sqrt ?\[[^\]]*\]")
_ROOT_DEGREE = re.compile(r"\\sqrt ?\[[^\]]*(?:[0-9]{4,}|\^)[^\]]*\]")


def refusal(text: str) -> str:
    """Why `text` is compared as text alone, in a few words; empty when it may go to the worker."""
    if len(text) > LENGTH:
        return "too long for algebra"
    if "__" in text or _FOREIGN.search(text.replace("\\{", "").replace("\\}", "")):
        return "characters foreign to algebra"
    unknown = next((name for name in _COMMAND.findall(text) if name not in _COMMANDS and name not in "{}"), None)
    if unknown is not None:
        return "a command that is not evaluated"
    if _WORD.search(_COMMAND.sub(" ", text).replace("mathbb", "")):
        return "words"
    if _NEIGHBOURS.search(text):
        return "numbers side by side"
    if "\\circ" in text:
        return "degrees inside an expression"
    if sum(char.isdigit() for char in text) > DIGITS:
        return f"more than {DIGITS} digits"
    if sum(text.count(char) for char in "+-*/^") > OPERATORS:
        return f"more than {OPERATORS} operators"
    return too_deep(text) or _too_large(text)


def stray(text: str) -> str:
    """Why `text` cannot be a single value, though it may be part of a set; empty when it can."""
    if "\\{" in text or "\\mathbb" in text:
        return "a set inside an expression"
    if "[" in _ROOT.sub("", text):
        return "square brackets"
    if "\\infty" in text:
        return "arithmetic with infinity"
    return ""


def too_deep(text: str) -> str:
    """Why the brackets of `text` are not followed; empty when they can be."""
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    return f"brackets nested deeper than {DEPTH}" if deepest > DEPTH else ""


def _too_large(text: str) -> str:
    if _CHAINED.search(text):
        return "a power tower"
    if _FACTORIAL.search(text) or any(_is_numeric(group) for group in _GROUP_FACTORIAL.findall(text)):
        return "a large factorial"
    if any(_LARGE.search(part) for part in _binomial_parts(text)):
        return "a large binomial"
    if _FUNCTION_POWER.search(text) or _ROOT_DEGREE.search(text):
        return "a large exponent"
    if _levels(text) > LEVELS or len(_GROWING.findall(text)) > LEVELS:
        return "a power tower"
    for match in _EXPONENT.finditer(text):
        exponent = _group(text, match.start(1)) if match.group(1) == "{" else match.group(1)
        if _NUMERIC_POWER.search(exponent):
            return "a power tower"
        if "!" in exponent:
            return "a factorial in an exponent"
        if sum(char.isdigit() for char in exponent) > EXPONENT_DIGITS:
            return "a large exponent"
    return ""


def _binomial_parts(text: str) -> list[str]:
    """The upper and lower parts of all binomials."""
    parts = []
    for match in re.finditer(r"\\binom ?(?=\{)", text):
        upper = _group(text, match.end())
        rest = text[match.end() + len(upper) + 2 :].lstrip()
        parts += [upper, _group(rest, 0) if rest.startswith("{") else rest]
    return parts


def _levels(text: str) -> int:
    """How deep exponents stand in exponents."""
    stack: list[int] = []
    level = deepest = 0
    previous = ""
    for char in text.replace(" ", ""):
        if char == "{":
            stack.append(level)
            level += previous == "^"
        elif char == "}" and stack:
            level = stack.pop()
        elif previous == "^":
            deepest = max(deepest, level + 1)
        deepest = max(deepest, level)
        previous = char
    return deepest


def _is_numeric(group: str) -> bool:
    """Whether a group has a fixed value, or one too nested to see: (n-1)! stays symbolic, (9^9)! would be evaluated."""
    return len(group) == 1 or not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", group) or bool(_LARGE.search(group))


def _group(text: str, opening: int) -> str:
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[opening + 1 : at]
    return text[opening:]
