"""Verifiers by name: the built-in ones, and those that installed packages offer as entry points `mimosa.verifiers`; by place: anyone's
reward function in a file or module, or behind an address (see spec.py).

An entry point names a class or function that takes `timeout` and its options as keyword arguments and returns a Verifier; or, without a
parameter of that name, a reward function of any known interface.
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
from .endpoint import Endpoint
from .exact import Exact
from .function import Function
from .math_answer import MathAnswer
from .rubric import Part, Rubric
from .sandbox_fusion import SandboxFusion
from .spec import WANTED, Spec, missing, parse
from .verifier import Verifier

GROUP = "mimosa.verifiers"
BUILT_IN: dict[str, Callable[..., Verifier]] = {
    "code": CodeTests,
    "countdown": Countdown,
    "exact": Exact,
    "math": MathAnswer,
}


_MAPPINGS = ("arguments", "headers")  # options that are no single value


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


def absolute(spec: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """`spec` and its options so that they mean the same from another folder."""
    place = parse(spec)
    text = spec if place is None or spec in known() else place.text
    changed = dict(options)
    if spec == "rubric" and isinstance(changed.get("parts"), (list, tuple)):
        changed["parts"] = [_absolute_part(part) for part in changed["parts"]]
    return text, changed


def _absolute_part(part: Any) -> Any:
    if not isinstance(part, Mapping) or not isinstance(part.get("verifier"), str):
        return part
    text, options = absolute(part["verifier"], part.get("options") or {})
    return {**part, "verifier": text, **({"options": options} if options else {})}


def check(spec: str, options: Mapping[str, Any], load: bool = True) -> list[str]:
    """Raises ValueError, one line, for an unknown verifier, an unknown option or an ill-typed one.

    With `load` a function is loaded in a process of its own, which ends again: an import that fails, or parameters that no known
    system has, come to light here. No other verifier starts anything. Returns a line for each function: how it will be called.
    """
    factory = _factory(spec)
    _checked(factory, label(spec), options)
    if spec == "rubric":
        parts = _parts(options.get("parts"))
        return [line for part in parts for line in check(part["verifier"], part["options"], load)]
    return _tried(factory(timeout=1.0, **options), load) if isinstance(factory, functools.partial) else []


def create(spec: str, options: Mapping[str, Any], timeout: float) -> Verifier:
    """The verifier that `spec` names, with its options.

    spec: a built-in name, that of an entry point, `path/to/file.py:function`, `pkg.module:function` or `pkg.module.function`, or an
    http(s) address. timeout: seconds per judgement. Raises ValueError as `check` without `load` does.
    """
    if not timeout > 0:
        raise ValueError(f"verifier.timeout is {timeout}, wanted more than 0 seconds")
    factory = _factory(spec)
    _checked(factory, label(spec), options)
    return factory(timeout=timeout, **options)


def _factory(spec: str) -> Callable[..., Verifier]:
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    for point in entry_points(group=GROUP):
        if point.name == spec:
            found = point.load()
            if "timeout" in inspect.signature(found).parameters:
                return found
            return functools.partial(Function, Spec("module", point.module, point.attr))
    place = parse(spec)
    if place is None and spec.endswith(".py"):
        raise ValueError(f"verifier {spec!r} names no function in the file, wanted {WANTED}")
    if place is None:
        raise ValueError(unknown(spec))
    return _placed(place)


def _placed(place: Spec) -> Callable[..., Verifier]:
    why = missing(place)
    if why:
        raise ValueError(f"verifier {why}")
    if place.kind != "url":
        return functools.partial(Function, place)
    return functools.partial(SandboxFusion if place.label.endswith("/run_code") else Endpoint, place)


def _tried(verifier: Verifier, load: bool) -> list[str]:
    """Its options have been read when it was made; a function is loaded too."""
    try:
        if not (load and isinstance(verifier, Function)):
            return []
        about = verifier.start()
        each = "all answers to a prompt at once" if about["grouped"] else "one answer at a time"
        return [f"reward function {verifier.name}: called as {about['interface']} calls one, {each}"]
    finally:
        verifier.close()


def _rubric(*, timeout: float, parts: Any = None) -> Verifier:
    """The verifier `rubric`. parts: a list of mappings with verifier, and optionally weight (1), options and name."""
    made = [
        Part(part["name"], part["weight"], create(part["verifier"], part["options"], timeout)) for part in _parts(parts)
    ]
    return Rubric(made)


def _parts(given: Any) -> list[dict[str, Any]]:
    """The parts of a rubric with their defaults; names are told apart by numbers. Raises ValueError."""
    where = "option 'parts' of verifier 'rubric'"
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"{where} is {given!r}, wanted a list of {{verifier, weight, options, name}}")
    parts: list[dict[str, Any]] = []
    for number, one in enumerate(given, 1):
        if not isinstance(one, Mapping) or not isinstance(one.get("verifier"), str):
            raise ValueError(f"{where}: part {number} is {one!r}, wanted a mapping with verifier")
        for key in one:
            if key not in ("verifier", "weight", "options", "name"):
                raise ValueError(f"{where}: part {number}: unknown key {key!r}, wanted verifier, weight, options, name")
        weight, options = one.get("weight", 1.0), one.get("options") or {}
        if type(weight) not in (int, float) or not 0 <= weight < float("inf") or not isinstance(options, Mapping):
            raise ValueError(f"{where}: part {number} is {one!r}, wanted a weight of 0 or more and options by name")
        name = str(one.get("name") or label(one["verifier"]))
        name += f"#{number}" if any(part["name"] == name for part in parts) else ""
        parts.append({"name": name, "weight": float(weight), "verifier": one["verifier"], "options": dict(options)})
    if not any(part["weight"] for part in parts):
        raise ValueError(f"{where}: every weight is 0, wanted one above")
    return parts


def _checked(factory: Callable[..., Verifier], name: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    names = [key for key in parameters if key != "timeout"]
    for key, value in options.items():
        if key not in names:
            raise ValueError(f"unknown option {key!r} of verifier {name!r}{_nearest(key, names)}")
        default = parameters[key].default
        wanted = type(default).__name__
        if key in _MAPPINGS and not (isinstance(value, Mapping) and all(isinstance(name, str) for name in value)):
            raise ValueError(f"option {key!r} of verifier {name!r} is {value!r}, wanted a mapping with names for keys")
        if not _fits(value, default):
            raise ValueError(f"option {key!r} of verifier {name!r} is {value!r}, wanted a value of type {wanted}")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default) or not isinstance(default, (bool, str, int))


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    return f"; nearest known: {close[0]!r} (known: {', '.join(names)})" if close else "; it takes none"


BUILT_IN["rubric"] = _rubric  # made of others by `create`, so it comes last
