"""Verifiers by name: the built-in ones, and those that installed packages offer as entry points `mimosa.verifiers`.

An entry point names a class or function that takes `timeout` and its options as keyword arguments and returns a Verifier.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from .code_tests import CodeTests
from .countdown import Countdown
from .exact import Exact
from .math_answer import MathAnswer
from .verifier import Verifier

GROUP = "mimosa.verifiers"
BUILT_IN: dict[str, Callable[..., Verifier]] = {
    "code": CodeTests,
    "countdown": Countdown,
    "exact": Exact,
    "math": MathAnswer,
}


def known() -> list[str]:
    """Names that `create` takes, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def unknown(name: str) -> str:
    """What to say of a name that `create` does not take."""
    return f"unknown verifier {name!r}{_nearest(name, known())}"


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown verifier, an unknown option or an ill-typed one; starts nothing."""
    _checked(_factory(name), name, options)


def create(name: str, options: Mapping[str, Any], timeout: float) -> Verifier:
    """The verifier `name` with its options; `timeout`: seconds per judgement. Raises ValueError as `check` does."""
    if not timeout > 0:
        raise ValueError(f"verifier.timeout is {timeout}, wanted more than 0 seconds")
    factory = _factory(name)
    _checked(factory, name, options)
    return factory(timeout=timeout, **options)


def _factory(name: str) -> Callable[..., Verifier]:
    if name in BUILT_IN:
        return BUILT_IN[name]
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    raise ValueError(unknown(name))


def _checked(factory: Callable[..., Verifier], name: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    names = [key for key in parameters if key != "timeout"]
    for key, value in options.items():
        if key not in names:
            raise ValueError(f"unknown option {key!r} of verifier {name!r}{_nearest(key, names)}")
        default = parameters[key].default
        if isinstance(default, (bool, str)) and type(value) is not type(default):
            wanted = type(default).__name__
            raise ValueError(f"option {key!r} of verifier {name!r} is {value!r}, wanted a value of type {wanted}")


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    return f"; nearest known: {close[0]!r} (known: {', '.join(names)})" if close else "; it takes none"
