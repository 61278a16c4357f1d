"""What the generated tasks share: numbered rows, given out whole or as a seeded sample, and the form of answers."""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..records import Prompt

ALL_UP_TO = 1 << 15  # a space of at most so many rows is given out whole when no size is asked for
BOX = ("\\boxed{", "}")
OPERATORS = {"add": "+", "subtract": "-", "multiply": "*"}


@dataclass(frozen=True)
class Generated(ABC):
    """A task whose rows are made, not read. Equal options give equal rows in equal order, in every run.

    A row's `fields["key"]` is what a split goes by: rows that are the same question in another order share it.
    """

    size: int = 0  # rows; 0: all of them, or 32768 when there are more
    seed: int = 0  # of the order, and of the choice when not all rows are given out
    cot: bool = True  # demonstrations with their steps before the answer
    boxed: bool = True  # answers inside \boxed{}; else bare, for the verifier "exact" with its option boxed=false

    def __post_init__(self) -> None:
        if self.size < 0 or self.seed < 0:
            raise ValueError(f"{self.name()}: got size={self.size}, seed={self.seed}, wanted no negative number")
        if self.cot and not self.boxed:
            raise ValueError(f"{self.name()}: got cot=True with boxed=False, wanted a box after steps")

    @classmethod
    @abstractmethod
    def name(cls) -> str:
        """The task's name in `data.train.task`."""

    @abstractmethod
    def rows(self) -> Iterator[Prompt]:
        """All rows, in a fixed shuffled order."""

    @abstractmethod
    def letters(self) -> str:
        """The characters of prompts and demonstrations, those of the box left out."""

    def alphabet(self) -> str:
        """The characters a chars tokenizer needs."""
        return "".join(sorted(set(self.letters())))

    def symbols(self) -> tuple[str, ...]:
        """The strings that are best one token each."""
        return BOX if self.boxed else ()

    def prompt(self, question: str, steps: str, answer: str, key: str) -> Prompt:
        return Prompt(
            id=f"{self.name()}:{question}",
            prompt=f"{question}=",
            verifier="math" if self.boxed else "exact",
            ground_truth=answer,
            response=self.demonstration(steps, answer),
            fields={"key": key},
        )

    def demonstration(self, steps: str, answer: str) -> str:
        left, right = BOX if self.boxed else ("", "")
        return f"{steps if self.cot else ''}{left}{answer}{right}"


@dataclass(frozen=True)
class Numbered(Generated):
    """A task whose rows are numbered, so that a sample without repetition is a sample of numbers."""

    @abstractmethod
    def space(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def row(self, number: int) -> Prompt:
        """Row 0 <= number < space()."""

    def rows(self) -> Iterator[Prompt]:
        draw, space = random.Random(self.seed), self.space()
        count = min(self.size or ALL_UP_TO, space)
        if space <= sys.maxsize:
            return map(self.row, draw.sample(range(space), count))
        return map(self.row, dict.fromkeys(draw.randrange(space) for _ in range(count)))  # so many never repeat


def within(task: str, option: str, value: int, low: int, high: int) -> None:
    """Raises ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{task}: got {option}={value}, wanted {low} to {high}")


def among(task: str, option: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError unless `values` are one or more of `known`, each once."""
    if not values or len(set(values)) < len(values) or not set(values) <= set(known):
        raise ValueError(f"{task}: got {option}={list(values)}, wanted one or more of {', '.join(known)}")
