r"""The killable process that runs the computer algebra: `python -m mimosa.rewards.checker MEMORY_BYTES`.

One JSON object a line comes in, {"kind", "gold", "answer", "limit"}, and one goes out: {"equal": bool} or {"limit": "memory"}.
Texts are canonical and have passed guards.py; they are parsed by math-verify's grammar (latex2sympy2_extended), which walks a
syntax tree and never calls Python's or sympy's evaluators of strings.

Single values are compared at fixed rational points with 120 digits instead of by math-verify's own rule, which rounds to 6
decimals and drops differences below 1e-15, so that it takes 1/2^99 for 1/2^98. Relations and sets go to its `verify`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any, TextIO

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import verify
from sympy.core.function import AppliedUndef

DIGITS = 120
AGREE = sympy.Float(10, DIGITS) ** -100  # relative difference of equal values
TINY = sympy.Float(10, DIGITS) ** -200
ENOUGH = 3  # points at which both sides have a value
FAR = (10**5, 10**8, 10**14)  # of points at which kinks are looked for, times 101
SPARE_SECONDS = 2.0  # after its limit the process ends itself, should nobody be left to kill it
IDLE_SECONDS = 5.0  # between looks at whether the parent still lives

_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")
_PRODUCT = re.compile(r"(?<![_^0-9.{])([0-9]+) ?\(|\) ?\(|\) ?(?=[0-9])")
_KINKED = (sympy.Abs, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.sign, sympy.Piecewise)
_I = sympy.Symbol("i", real=True)  # as the grammar reads it
_CONVERSION = ConversionConfig(lowercase_symbols=False)

Expression = Any  # sympy.Basic or a matrix: sympy carries no types


def main() -> None:
    """Answers questions until the input ends or the parent is gone."""
    logging.disable(logging.CRITICAL)
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()
    questions, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    _reply(answers, {"ready": True})
    pending = b""
    while os.getppid() == parent:
        if not select.select([questions], [], [], IDLE_SECONDS)[0]:
            continue
        chunk = questions.read(1 << 16)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            _reply(answers, _answered(json.loads(line)))


def _reply(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _answered(question: dict[str, Any]) -> dict[str, Any]:
    signal.setitimer(
        signal.ITIMER_REAL, question["limit"] + SPARE_SECONDS
    )  # default action: the kernel ends the process
    try:
        return {"equal": equal(question["kind"], question["gold"], question["answer"])}
    except (MemoryError, RecursionError) as error:
        return {"limit": "memory" if isinstance(error, MemoryError) else "depth"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def equal(kind: str, gold: str, answer: str) -> bool:
    """Whether two canonical texts mean the same; `kind` is value, equation, relation or set. Unreadable text equals nothing."""
    ours, theirs = _parsed(gold), _parsed(answer)
    if ours is None or theirs is None:
        return False
    if (
        kind == "equation"
        and isinstance(ours, sympy.Eq)
        and isinstance(theirs, sympy.Eq)
        and _proportional(ours, theirs)
    ):
        return True
    if kind == "value" and _is_value(ours) and _is_value(theirs):
        return _same_value(ours, theirs)
    if kind == "value" and not (isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr)):
        return bool(ours == theirs)
    return bool(verify(ours, theirs, timeout_seconds=None))


@lru_cache(maxsize=256)
def _parsed(text: str) -> Expression | None:
    text = _DECIMAL.sub(lambda match: f"\\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}", text)
    text = _PRODUCT.sub(_with_dot, text)
    try:
        expression = latex2sympy(text, is_real=True, normalization_config=None, conversion_config=_CONVERSION)
        return expression.xreplace({_I: sympy.I}) if isinstance(expression, sympy.Expr) else expression
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - the parser raises bare Exception for text outside its grammar
        return None


def _with_dot(match: re.Match[str]) -> str:
    """2(3) is a product: the grammar would read a mixed number."""
    if match[1]:
        return f"{match[1]}\\cdot("
    return ")\\cdot(" if match[0].endswith("(") else ")\\cdot "


def _is_value(expression: Expression) -> bool:
    return (
        isinstance(expression, sympy.Expr)
        and not expression.atoms(AppliedUndef)
        and not expression.has(sympy.MatrixSymbol)
    )


def _same_value(a: Expression, b: Expression) -> bool:
    """Equal at every point of the common real domain; of the complex plane where that has too few points."""
    if a == b:
        return a not in (sympy.nan, sympy.zoo)
    symbols = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
    if not symbols:
        return _same_at({}, a, b) is True
    points = _points(len(symbols))
    for real in (True, False):
        found = [_same_at(point, a, b) for values in points for point in (dict(zip(symbols, values, strict=True)),)
                 if not real or (_is_real_at(a, point) and _is_real_at(b, point))]  # fmt: skip
        known = [same for same in found if same is not None]
        if len(known) >= ENOUGH:
            return all(known) and not _part_far_off(symbols, a, b, real)
    return False


def _part_far_off(symbols: list[Expression], a: Expression, b: Expression, real: bool) -> bool:
    """Whether expressions with a kink, which may lie beyond the points, differ far from zero: |x-50|+x-50 is 0 below 50."""
    if not (_has_kink(a) or _has_kink(b)) or _is_tower(a) or _is_tower(b):
        return False
    points = [dict(zip(symbols, values, strict=True)) for values in _far_points(len(symbols))]
    return any(
        _same_at(point, a, b) is False
        for point in points
        if not real or (_is_real_at(a, point) and _is_real_at(b, point))
    )


def _has_kink(expression: Expression) -> bool:
    """Whether it may be given by different formulas on different ranges: an absolute value, a whole part, a root of a square."""
    return expression.has(*_KINKED) or any(
        power.exp.is_Rational and not power.exp.is_Integer for power in expression.atoms(sympy.Pow)
    )


def _is_tower(expression: Expression) -> bool:
    """Whether an exponent grows exponentially itself: far from zero such a value has too many digits to be written down."""
    return any(_growing(power.exp) for power in _growing(expression))


def _growing(expression: Expression) -> list[Expression]:
    return [power for power in expression.atoms(sympy.Pow, sympy.exp) if power.exp.free_symbols]


@lru_cache(maxsize=16)
def _far_points(dimensions: int) -> list[list[Expression]]:
    """All coordinates of about one size, of one sign and of mixed ones."""
    draw = random.Random(40 + dimensions)
    return [
        [sympy.Rational(sign * draw.randint(size, 10 * size), 101) * draw.choice(turns) for _ in range(dimensions)]
        for size in FAR for sign, turns in ((1, (1,)), (-1, (1,)), (1, (1, -1)))
    ]  # fmt: skip


@lru_cache(maxsize=16)
def _points(dimensions: int) -> list[list[Expression]]:
    """Positive points below 1 and beyond, points of mixed sign, and whole numbers for exponents and factorials."""
    draw = random.Random(20 + dimensions)
    ranges = [(1, 97)] * 3 + [(101, 400)] * 3 + [(-300, 300)] * 5
    points = [[sympy.Rational(draw.randint(*bounds) or 7, 101) for _ in range(dimensions)] for bounds in ranges]
    return points + [
        [sympy.Integer(value) for value in draw.sample(range(2, 9 + dimensions), dimensions)] for _ in range(3)
    ]


def _same_at(point: dict[Expression, Expression], a: Expression, b: Expression) -> bool | None:
    """Whether both have the same value at `point`; None when neither has one."""
    ours, theirs = _value_at(a, point), _value_at(b, point)
    if ours is None or theirs is None:
        return None if ours is theirs else False
    if _close(ours, theirs):
        return True
    if _is_zero(ours) and _is_zero(theirs):
        return True
    return None if _is_tiny(ours) and _is_tiny(theirs) else False


def _value_at(expression: Expression, point: dict[Expression, Expression]) -> Expression | None:
    with contextlib.suppress(ArithmeticError, TypeError, ValueError, NotImplementedError, AttributeError):
        value = expression.evalf(DIGITS, subs=point or None, maxn=4 * DIGITS)
        if value.is_number and value.is_finite and not value.atoms(sympy.Function):
            return value
    return None


def _close(a: Expression, b: Expression) -> bool:
    return not (_is_zero(a) or _is_zero(b)) and bool(sympy.Abs(a - b) <= AGREE * sympy.Max(sympy.Abs(a), sympy.Abs(b)))


def _is_zero(value: Expression) -> bool:
    """Zero, or a difference that cancelled until no digit was left."""
    floats = value.atoms(sympy.Float)
    return value == 0 or (bool(floats) and all(number._prec < 20 for number in floats))


def _is_tiny(value: Expression) -> bool:
    """Zero or too near to it to tell: evalf leaves such a value where (x-2)^2 is evaluated at 2."""
    return _is_zero(value) or bool(sympy.Abs(value) < TINY)


def _is_real_at(expression: Expression, point: dict[Expression, Expression]) -> bool:
    """Whether every root and logarithm in `expression` has a real value at `point`."""
    for node in sympy.preorder_traversal(expression):
        inner = None
        if isinstance(node, sympy.Pow) and node.exp.is_integer is not True:
            inner = _integer_power(node, point)
        elif isinstance(node, sympy.log):
            inner = _value_at(node.args[0], point)
        if inner is not None and inner.is_negative:
            return False
    return True


def _integer_power(node: Expression, point: dict[Expression, Expression]) -> Expression | None:
    """The base's value unless the exponent is a whole number at `point`."""
    exponent = node.exp.xreplace(point)
    return None if exponent.is_integer else _value_at(node.base, point)


def _proportional(gold: Expression, answer: Expression) -> bool:
    """Whether lhs - rhs of one equation is a constant times that of the other, so that both have the same solutions."""
    ours, theirs = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if not (_is_value(ours) and _is_value(theirs)) or ours.free_symbols != theirs.free_symbols or not ours.free_symbols:
        return False
    symbols = sorted(ours.free_symbols, key=lambda symbol: symbol.name)
    pairs = []
    for values in _points(len(symbols)):
        point = dict(zip(symbols, values, strict=True))
        a, b = _value_at(ours, point), _value_at(theirs, point)
        if a is not None and b is not None and not _is_tiny(a) and not _is_tiny(b):
            pairs.append((a, b))
    return len(pairs) >= ENOUGH and all(_close(a * pairs[0][1], b * pairs[0][0]) for a, b in pairs[1:])


if __name__ == "__main__":
    main()
