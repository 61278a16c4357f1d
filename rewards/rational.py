r"""Exact values of numeric answers, by a parser of our own over canonical text.

Sums, products, quotients, integer powers, factorials, binomials, roots of squares, decimals, repeating decimals and mixed
numbers; nothing is ever handed to an interpreter. Work is bounded: no number grows beyond BITS, no nesting beyond DEPTH.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

BITS = 20_000
DEPTH = 20
FACTORIAL = 500  # 500! has 3,768 bits

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_TOKEN = re.compile(
    r" *(?:([0-9]*\.?[0-9]*\\(?:overline|bar|dot) ?\{[0-9]+\})"
    r"|([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,4}(?![0-9a-zA-Z.]))?|\.[0-9]+)"
    r"|(\\(?:frac|binom|sqrt|cdot|times|div))(?![a-zA-Z])"
    r"|([-+*/^(){}!]))"
)
_GROUPS = re.compile(r"(?<![0-9.,])[0-9]{1,3}([ ,])[0-9]{3}(?:\1[0-9]{3})*(?![0-9]|[ ,][0-9])")
_REPEATING = re.compile(r"([0-9]*)\.?([0-9]*)\\[a-z]+ ?\{([0-9]+)\}")
_MIXED = re.compile(r"([0-9]+) ([0-9]+/[0-9]+)")


class NotExact(Exception):
    """The text is not an exact number within the bounds."""


def integer(text: str) -> int | None:
    """The value of a plain integer, else None: the fast path."""
    return int(text) if _INTEGER.fullmatch(text) else None


def rational(text: str) -> Fraction | None:
    r"""The exact value of canonical text without units, or None.

    >>> rational(r"2\frac{1}{3}"), rational("1,234.50"), rational("2^{10}/3!")
    (Fraction(7, 3), Fraction(2469, 2), Fraction(512, 3))
    """
    text = ungrouped(text.strip())
    mixed = _MIXED.fullmatch(text.lstrip("-"))
    if mixed:
        text = text.replace(mixed.group(1) + " ", mixed.group(1) + "+", 1)
        text = f"-({text[1:]})" if text.startswith("-") else text
    try:
        tokens = _tokens(text)
        parser = _Parser(tokens)
        value = parser.sum(0)
        return value if parser.at == len(tokens) else None
    except NotExact:
        return None


def ungrouped(text: str) -> str:
    """`text` with the separators of thousands taken out of its numbers: 1,234 and 1 234."""
    return _GROUPS.sub(lambda match: re.sub("[ ,](?=[0-9])", "", match.group()), text)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotExact
        tokens.append(match.group().strip())
        at = match.end()
    if not tokens:
        raise NotExact
    return tokens


class _Parser:
    """Recursive descent; each method leaves `at` behind what it read and raises NotExact where it cannot go on."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def sum(self, depth: int) -> Fraction:
        if depth > DEPTH:
            raise NotExact
        value = self.product(depth, signed=True)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = _bounded(value + sign * self.product(depth))
        return value

    def product(self, depth: int, signed: bool = False) -> Fraction:
        sign = -1 if signed and self.peek() == "-" else 1
        if signed and self.peek() in ("+", "-"):
            self.take()
        value, plain = self.power(depth)
        first = True
        while True:
            token = self.peek()
            if token in ("*", "\\cdot", "\\times"):
                self.take()
                factor, plain = self.power(depth)
                value = _bounded(value * factor)
            elif token in ("/", "\\div"):
                self.take()
                factor, plain = self.power(depth)
                value = _divided(value, factor)
            elif token == "\\frac" and plain:
                part, plain = self.power(depth)
                value = value + part if first and 0 < part < 1 else _refuse()
            elif token in ("(", "\\frac", "\\sqrt", "\\binom"):
                factor, plain = self.power(depth)
                value = _bounded(value * factor)
            else:
                return sign * value
            first = False

    def power(self, depth: int) -> tuple[Fraction, bool]:
        """A value with its exponents and factorials, and whether it is a plain integer (a mixed number may follow)."""
        plain = self.peek().isdigit()
        value = self.atom(depth)
        while self.peek() in ("^", "!"):
            plain = False
            if self.take() == "!":
                value = _factorial(value)
                if self.peek() == "!":  # a double factorial is not the factorial of a factorial
                    raise NotExact
            else:
                exponent = self.group(depth) if self.peek() == "{" else self.atom(depth)
                value = _power(value, exponent)
                if self.peek() == "^":
                    raise NotExact
        return value, plain

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum(depth + 1)
            self.expect(")")
            return value
        if token == "{":
            self.at -= 1
            return self.group(depth)
        if token == "\\frac":
            top = self.group(depth)
            return _divided(top, self.group(depth))
        if token == "\\binom":
            top = self.group(depth)
            return _binomial(top, self.group(depth))
        if token == "\\sqrt":
            return _root(self.group(depth))
        if token and (token[0].isdigit() or token[0] == "." or token.startswith("\\")):
            return _number(token)
        raise NotExact

    def group(self, depth: int) -> Fraction:
        self.expect("{")
        value = self.sum(depth + 1)
        self.expect("}")
        return value

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NotExact


def _refuse() -> Fraction:
    raise NotExact


def _number(token: str) -> Fraction:
    if token.endswith("}"):
        whole, start, cycle = _REPEATING.fullmatch(token).groups()  # type: ignore[union-attr]
        if "." not in token:
            raise NotExact
        scale = 10 ** len(start)
        return Fraction(int((whole or "0") + start), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    if len(token) > 2000 or not any(char.isdigit() for char in token):
        raise NotExact
    return _bounded(Fraction(token.rstrip(".") if "e" not in token.lower() else token))


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > BITS or value.denominator.bit_length() > BITS:
        raise NotExact
    return value


def _divided(top: Fraction, bottom: Fraction) -> Fraction:
    return _bounded(top / bottom) if bottom else _refuse()


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent.denominator == 2 and base >= 0:
            return _power(_root(base), Fraction(exponent.numerator))
        raise NotExact
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * size > BITS or (base == 0 and exponent <= 0):
        raise NotExact
    return base**exponent.numerator


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= FACTORIAL:
        raise NotExact
    return Fraction(math.factorial(value.numerator))


def _binomial(top: Fraction, bottom: Fraction) -> Fraction:
    if top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= top <= FACTORIAL:
        raise NotExact
    return Fraction(math.comb(top.numerator, bottom.numerator))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise NotExact
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top != value.numerator or bottom * bottom != value.denominator:
        raise NotExact
    return Fraction(top, bottom)
