"""Verifiers by name: the built-in ones, and those that installed packages offer as entry points `mimosa.verifiers`; by place: anyone's
reward function in a file or module, or behind an address (see spec.py).

An entry point names a class or function that takes `timeout` and its options as keyword arguments and returns a Verifier.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from .code_tests import CodeTests
from .countdown import Countdown
from .exact import Exact
from .function import Function
from .math_answer import MathAnswer
from .spec import WANTED, Spec, missing, parse
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
    return f"unknown verifier {name!r}{_nearest(name, known())}, or {WANTED}"


def label(spec: str) -> str:
    """A verifier's short name, for messages and metrics: `my.py:reward` for a function in a file."""
    place = parse(spec)
    return spec if place is None or spec in known() else place.label


def absolute(spec: str) -> str:
    """`spec` so that it means the same from another folder."""
    place = parse(spec)
    return spec if place is None or spec in known() else place.text


def check(spec: str, options: Mapping[str, Any], load: bool = True) -> None:
    """Raises ValueError, one line, for an unknown verifier, an unknown option or an ill-typed one.

    With `load` a function is loaded in a process of its own, which ends again: an import that fails, or parameters that no known
    system has, come to light here. No other verifier starts anything.
    """
    factory = _factory(spec)
    _checked(factory, spec, options)
    if load and isinstance(factory, functools.partial) and factory.func is Function:
        verifier = factory(timeout=1.0, **options)
        try:
            verifier.start()
        finally:
            verifier.close()


def create(spec: str, options: Mapping[str, Any], timeout: float) -> Verifier:
    """The verifier that `spec` names, with its options.

    spec: a built-in name, that of an entry point, `path/to/file.py:function`, `pkg.module:function` or `pkg.module.function`, or an
    http(s) address. timeout: seconds per judgement. Raises ValueError as `check` without `load` does.
    """
    if not timeout > 0:
        raise ValueError(f"verifier.timeout is {timeout}, wanted more than 0 seconds")
    factory = _factory(spec)
    _checked(factory, spec, options)
    return factory(timeout=timeout, **options)


def _factory(spec: str) -> Callable[..., Verifier]:
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    for point in entry_points(group=GROUP):
        if point.name == spec:
            return point.load()
    place = parse(spec)
    if place is None or place.kind == "url":
        raise ValueError(unknown(spec))
    return _placed(place)


def _placed(place: Spec) -> Callable[..., Verifier]:
    why = missing(place)
    if why:
        raise ValueError(f"verifier {why}")
    return functools.partial(Function, place)


def _checked(factory: Callable[..., Verifier], name: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    names = [key for key in parameters if key != "timeout"]
    for key, value in options.items():
        if key not in names:
            raise ValueError(f"unknown option {key!r} of verifier {name!r}{_nearest(key, names)}")
        default = parameters[key].default
        if not _fits(value, default):
            wanted = type(default).__name__
            raise ValueError(f"option {key!r} of verifier {name!r} is {value!r}, wanted a value of type {wanted}")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default) or not isinstance(default, (bool, str, int))


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    return f"; nearest known: {close[0]!r} (known: {', '.join(names)})" if close else "; it takes none"
