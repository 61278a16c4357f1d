"""Generated arithmetic: two numbers with their columns written out, and chains of operations modulo a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..records import Prompt
from .generated import OPERATORS, Numbered, among, within


@dataclass(frozen=True)
class Arithmetic(Numbered):
    """`81+52=` -> `0313\\boxed{133}`: the columns from the units on, two digits each with the carry, then the answer.

    A difference is written by the same columns as 10 + a - b - borrow, so a tens digit of 0 borrows from the next; the
    larger number stands first. A product shows its partial products: `81*52=` -> `162+4050\\boxed{4212}`.
    """

    digits: int = 2  # of both numbers, without leading zeros; one digit means 0 to 9
    ops: tuple[str, ...] = ("add",)  # of add, subtract, multiply

    def __post_init__(self) -> None:
        within(self.name(), "digits", self.digits, 1, 64)
        among(self.name(), "ops", self.ops, list(OPERATORS))
        super().__post_init__()

    @classmethod
    def name(cls) -> str:
        return "arithmetic"

    def letters(self) -> str:
        steps = "+" if self.cot and "multiply" in self.ops else ""
        return "0123456789=" + steps + "".join(OPERATORS[op] for op in self.ops)

    def space(self) -> int:
        return sum(self._pairs(op) for op in self.ops)

    def row(self, number: int) -> Prompt:
        for op in self.ops:
            if number < self._pairs(op):
                break
            number -= self._pairs(op)
        low, count = self._numbers()
        if op == "subtract":  # pairs with a >= b, numbered as in a triangle: (0,0) (1,0) (1,1) (2,0) ...
            a = (math.isqrt(8 * number + 1) - 1) // 2
            b = number - a * (a + 1) // 2
        else:
            a, b = divmod(number, count)
        return self._question(op, a + low, b + low)

    def _numbers(self) -> tuple[int, int]:
        """The smallest operand and how many there are."""
        low = 10 ** (self.digits - 1) if self.digits > 1 else 0
        return low, 10**self.digits - low

    def _pairs(self, op: str) -> int:
        _, count = self._numbers()
        return count * (count + 1) // 2 if op == "subtract" else count * count

    def _question(self, op: str, a: int, b: int) -> Prompt:
        sign = OPERATORS[op]
        if op == "multiply":
            answer, steps = a * b, "+".join(str(a * int(d) * 10**i) for i, d in enumerate(reversed(str(b))))
        else:
            answer, steps = (a + b, added(a, b)) if op == "add" else (a - b, subtracted(a, b))
        first, second = (a, b) if op == "subtract" else sorted((a, b))  # a+b and b+a are one question to a split
        return self.prompt(f"{a}{sign}{b}", steps, str(answer), f"{first}{sign}{second}")


def added(a: int, b: int) -> str:
    """The columns of a + b from the units on, two digits each, the carry included: 81 + 52 is 03 13."""
    steps, carry = "", 0
    for x, y in _columns(a, b):
        column = x + y + carry
        carry = column // 10
        steps += f"{column:02d}"
    return steps


def subtracted(a: int, b: int) -> str:
    """The columns of a - b from the units on as 10 + x - y - borrow, two digits each: 81 - 52 is 09 12."""
    steps, borrow = "", 0
    for x, y in _columns(a, b):
        column = 10 + x - y - borrow
        borrow = 1 - column // 10
        steps += f"{column:02d}"
    return steps


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    width = max(len(str(a)), len(str(b)))
    pairs = zip(f"{a:0{width}d}", f"{b:0{width}d}", strict=True)
    return [(int(x), int(y)) for x, y in reversed(list(pairs))]


@dataclass(frozen=True)
class ModularArithmetic(Numbered):
    """`((3+5)-6)%7=` -> `12\\boxed{2}`: the value modulo m after each operation, then the last one as the answer."""

    terms: int = 3
    modulus: int = 7
    ops: tuple[str, ...] = ("add",)  # of add, subtract, multiply; drawn anew for each operation

    def __post_init__(self) -> None:
        within(self.name(), "terms", self.terms, 2, 64)
        within(self.name(), "modulus", self.modulus, 2, 1000)
        among(self.name(), "ops", self.ops, list(OPERATORS))
        super().__post_init__()

    @classmethod
    def name(cls) -> str:
        return "modular_arithmetic"

    def letters(self) -> str:
        return "0123456789()%=" + "".join(OPERATORS[op] for op in self.ops)

    def space(self) -> int:
        return self.modulus**self.terms * len(self.ops) ** (self.terms - 1)

    def row(self, number: int) -> Prompt:
        values, signs = [], []
        for _ in range(self.terms):
            number, value = divmod(number, self.modulus)
            values.append(value)
        for _ in range(self.terms - 1):
            number, op = divmod(number, len(self.ops))
            signs.append(OPERATORS[self.ops[op]])
        return self._question(values, signs)

    def _question(self, values: list[int], signs: list[str]) -> Prompt:
        width = len(str(self.modulus - 1))
        result, text, steps = values[0], str(values[0]), ""
        for sign, value in zip(signs, values[1:], strict=True):
            result = {"+": result + value, "-": result - value, "*": result * value}[sign] % self.modulus
            text, steps = f"({text}{sign}{value})", steps + f"{result:0{width}d}"
        return self.prompt(f"{text}%{self.modulus}", steps, str(result), self._key(values, signs))

    def _key(self, values: list[int], signs: list[str]) -> str:
        """The same for chains that differ in the order of what commutes: all terms of a pure one, or the first two."""
        commuting = len(values) if set(signs) in ({"+"}, {"*"}) else 2 if signs[0] != "-" else 0
        ordered = sorted(values[:commuting]) + values[commuting:]
        return f"{','.join(map(str, ordered))} {''.join(signs)} % {self.modulus}"
