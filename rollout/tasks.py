"""The generated tasks by name. `data.train.task` names one, `data.train.options` sets its fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from .countdown import Countdown
from .digits import DigitSum, Parity
from .generated import Generated
from .sums import Arithmetic, ModularArithmetic

TASKS: dict[str, type[Generated]] = {
    task.name(): task for task in (Arithmetic, ModularArithmetic, Parity, Countdown, DigitSum)
}
WANTED: dict[Any, str] = {int: "an integer", bool: "true or false", tuple[str, ...]: "a list of names"}


def make_task(name: str, options: Mapping[str, Any]) -> Generated:
    """The task called `name` with `options`. Raises ValueError, naming the nearest, for a name or option unknown to it.

    >>> next(iter(make_task("digit_sum", {"digits": 3, "modulus": 7}).rows())).response
    '56\\\\boxed{6}'
    """
    if name not in TASKS:
        raise ValueError(f"task: got {name!r}, nearest is {_nearest(name, TASKS)!r}, wanted one of {', '.join(TASKS)}")
    task = TASKS[name]
    kinds = get_type_hints(task)
    known = [field.name for field in fields(task)]
    given = {}
    for option, value in options.items():
        if option not in known:
            nearest = _nearest(option, known)
            raise ValueError(f"{name}: got the option {option!r}, nearest is {nearest!r}, wanted {', '.join(known)}")
        given[option] = _typed(name, option, value, kinds[option])
    return task(**given)


def _typed(task: str, option: str, value: Any, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        fits = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
        value = tuple(words) if fits else value
    else:
        fits = type(value) is kind
    if not fits:
        raise ValueError(f"{task}: got {option}={value!r}, wanted {WANTED[kind]}")
    return value


def _nearest(word: str, known: Any) -> str:
    return max(known, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio())
