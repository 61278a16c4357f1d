"""Generated countdown: reach a target from given numbers, each used once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..records import Prompt
from .generated import OPERATORS, Generated, among, within

SIGNS = {**OPERATORS, "divide": "/"}
TRIES = 100  # draws per row before the options are taken to have no more rows


@dataclass(frozen=True)
class Countdown(Generated):
    """`3,5,7->22=` -> `3*5=15,15+7=22\\boxed{(3*5)+7}`; ground truth {"numbers": [3, 5, 7], "target": 22}.

    Every row has a solution, the demonstrated one: positive whole numbers all the way, every number used once.
    """

    size: int = 4096
    numbers: int = 3
    low: int = 1
    high: int = 20
    max_target: int = 100  # of results on the way too
    ops: tuple[str, ...] = ("add", "subtract", "multiply")  # of these and divide

    def __post_init__(self) -> None:
        within(self.name(), "size", self.size, 1, 10**7)
        within(self.name(), "numbers", self.numbers, 2, 8)
        within(self.name(), "low", self.low, 1, self.high)
        within(self.name(), "high", self.high, 1, self.max_target)
        among(self.name(), "ops", self.ops, list(SIGNS))
        if not self.boxed:
            raise ValueError("countdown: got boxed=False, wanted the expression in a box")
        super().__post_init__()

    @classmethod
    def name(cls) -> str:
        return "countdown"

    def letters(self) -> str:
        return "0123456789,->=()" + "".join(SIGNS[op] for op in self.ops)

    def rows(self) -> Iterator[Prompt]:
        draw = random.Random(self.seed)
        seen: set[str] = set()
        for _ in range(TRIES * self.size):
            if len(seen) == self.size:
                return
            row = self._drawn(draw)
            if row is not None and row.id not in seen:
                seen.add(row.id)
                yield row
        if len(seen) < self.size:
            raise ValueError(
                f"countdown: got size={self.size}, wanted at most {len(seen)}, all found with these options"
            )

    def _drawn(self, draw: random.Random) -> Prompt | None:
        """A row made backwards, from numbers joined at random; None when they joined to nothing allowed."""
        numbers = sorted(draw.randint(self.low, self.high) for _ in range(self.numbers))
        parts = [(number, str(number)) for number in numbers]
        steps = []
        while len(parts) > 1:
            a, b = (parts.pop(draw.randrange(len(parts))) for _ in range(2))
            sign = SIGNS[draw.choice(self.ops)]
            value = _result(a[0], b[0], sign)
            if value is None or value > self.max_target:
                return None
            steps.append(f"{a[0]}{sign}{b[0]}={value}")
            parts.append((value, f"{_bracketed(a[1])}{sign}{_bracketed(b[1])}"))
        target, expression = parts[0]
        given = ",".join(map(str, numbers))
        return Prompt(
            id=f"countdown:{given}->{target}",
            prompt=f"{given}->{target}=",
            verifier="countdown",
            ground_truth=json.dumps({"numbers": numbers, "target": target}),
            response=self.demonstration(",".join(steps), expression),
            fields={"key": f"{given}->{target}"},
        )


def _result(a: int, b: int, sign: str) -> int | None:
    """a sign b where that is a positive whole number."""
    if sign == "/":
        return a // b if a % b == 0 else None
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return value if value > 0 else None


def _bracketed(expression: str) -> str:
    return expression if expression.isdigit() else f"({expression})"
