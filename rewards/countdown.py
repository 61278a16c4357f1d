r"""The countdown task: reach a target with given numbers, each used at most once.

The ground truth is JSON, {"numbers": [3, 5, 7], "target": 22}; the answer, in the last `\boxed{...}`, an expression over + - * /
and parentheses. It is parsed to a syntax tree and walked with exact fractions; nothing is evaluated as code.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from fractions import Fraction

from ..records import Prompt, Verdict
from . import extraction
from .verifier import scored, verifier_failed

CHARS = 200  # of the expression
NODES = 100  # of its syntax tree

_SPELLING = (
    ("\\left", ""), ("\\right", ""), ("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("×", "*"), ("·", "*"), ("÷", "/"),
    ("−", "-"), ("$", ""), ("\\,", " "), ("\\ ", " "),
)  # fmt: skip
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class _Refused(Exception):
    """The expression breaks a rule, which the message names."""


class Countdown:
    """The verifier `countdown`. all_numbers: every given number must be used."""

    name = "countdown"

    def __init__(self, *, timeout: float = 5.0, all_numbers: bool = False) -> None:
        self._all_numbers = all_numbers  # the length cap bounds the time, so that the timeout has no use

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """1 when the expression reaches the target by the rules; a ground truth of another form is the verifier's failure."""
        try:
            numbers, target = _task(prompt.ground_truth)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return verifier_failed(
                f'ground_truth of prompt {prompt.id!r}: wanted {{"numbers": [..], "target": n}}: {error}'
            )
        answer, reason = extraction.boxed(extraction.after_reasoning(response))
        if answer is None:
            return scored(0.0, reason)
        try:
            value, used = _evaluated(_expression(answer, target))
        except _Refused as why:
            return scored(0.0, str(why))
        excess = Counter(used) - Counter(numbers)
        if excess:
            return scored(0.0, f"{next(iter(excess))} is not given, or used too often")
        if self._all_numbers and Counter(used) != Counter(numbers):
            return scored(0.0, "not every number is used")
        return scored(1.0, "reaches the target") if value == target else scored(0.0, "another value than the target")

    def close(self) -> None:
        """Nothing to end."""


def _task(ground_truth: str) -> tuple[list[int], int]:
    content = json.loads(ground_truth)
    numbers, target = content["numbers"], content["target"]
    if not isinstance(numbers, list) or any(type(number) is not int for number in [*numbers, target]):
        raise ValueError("numbers and target must be integers")
    return numbers, target


def _expression(answer: str, target: int) -> str:
    """The answer in Python's spelling, without `= target` at its end."""
    if len(answer) > CHARS:
        raise _Refused(f"expression longer than {CHARS} characters")
    for ours, theirs in _SPELLING:
        answer = answer.replace(ours, theirs)
    text, *sides = answer.split("=")
    if len(sides) > 1:
        raise _Refused("more than one equals sign")
    if sides and not (_INTEGER.fullmatch(sides[0].strip()) and int(sides[0]) == target):
        raise _Refused("what follows = is not the target")
    text = text.strip()
    if not _ALLOWED.fullmatch(text):
        raise _Refused("characters other than digits, + - * / and parentheses")
    return text


def _evaluated(text: str) -> tuple[Fraction, list[int]]:
    """The value of the expression and the numbers in it."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Refused("not an expression") from error
    if sum(1 for _ in ast.walk(tree)) > NODES:
        raise _Refused(f"expression of more than {NODES} parts")
    used: list[int] = []
    return _value(tree, used), used


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """The value of a node; appends its numbers to `used`. At most NODES deep."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise _Refused("only + - * / between numbers, and parentheses")
    left, right = _value(node.left, used), _value(node.right, used)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    if not isinstance(node.op, ast.Div):
        raise _Refused("only + - * / between numbers, and parentheses")
    if right == 0:
        raise _Refused("division by zero")
    return left / right
