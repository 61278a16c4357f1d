"""Generated state tracking: digit sums modulo a number and the parity of bits, with the running sum as the steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from ..records import Prompt
from .generated import Numbered, within


@dataclass(frozen=True)
class _RunningSum(Numbered):
    """Digits below `base` and their sum modulo `base`: one residue to be carried from the first to the last."""

    @abstractmethod
    def _shape(self) -> tuple[int, int]:
        """How many digits, and the base."""

    def letters(self) -> str:
        return "0123456789"[: self._shape()[1]] + "="

    def space(self) -> int:
        length, base = self._shape()
        return base**length

    def row(self, number: int) -> Prompt:
        length, base = self._shape()
        digits = []
        for _ in range(length):
            number, digit = divmod(number, base)
            digits.append(digit)
        total, steps = digits[0], ""
        for digit in digits[1:]:
            total = (total + digit) % base
            steps += str(total)
        question = "".join(map(str, digits))
        return self.prompt(question, steps, str(total), question)


@dataclass(frozen=True)
class DigitSum(_RunningSum):
    """`3732=` -> `035\\boxed{5}`: prefix sums modulo 10 from the second digit on, then the last one as the answer."""

    digits: int = 4
    modulus: int = 10  # digits run from 0 to modulus - 1

    def __post_init__(self) -> None:
        within(self.name(), "digits", self.digits, 2, 1000)
        within(self.name(), "modulus", self.modulus, 2, 10)
        super().__post_init__()

    @classmethod
    def name(cls) -> str:
        return "digit_sum"

    def _shape(self) -> tuple[int, int]:
        return self.digits, self.modulus


@dataclass(frozen=True)
class Parity(_RunningSum):
    """`10110=` -> `1011\\boxed{1}`: the parity of the ones so far, from the second bit on, then the last one."""

    bits: int = 12

    def __post_init__(self) -> None:
        within(self.name(), "bits", self.bits, 2, 1000)
        super().__post_init__()

    @classmethod
    def name(cls) -> str:
        return "parity"

    def _shape(self) -> tuple[int, int]:
        return self.bits, 2
