"""The names of all settings: every dotted key of the schema with its type, and the nearest one to a misspelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_origin, get_type_hints

from .schema import Config

WANTED = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list[str]: "a list of texts",
    list[float]: "a list of numbers",
    dict[str, Any]: "a mapping",
    dict[str, float]: "a mapping to numbers",
}


@cache
def key_types() -> dict[str, Any]:
    """The type of every dotted key, in the schema's order."""
    return dict(_walk(Config, ""))


def _walk(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(section).items():
        if is_dataclass(kind):
            yield from _walk(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name, kind


def known_keys() -> list[str]:
    """All dotted keys, in the schema's order."""
    return list(key_types())


@cache
def sections() -> frozenset[str]:
    """The dotted names above the keys: "data", "data.train", ..."""
    return frozenset(key[:place] for key in key_types() for place, letter in enumerate(key) if letter == ".")


def is_free_form(key: str) -> bool:
    """True for a key that holds a mapping with entries of any name."""
    return get_origin(key_types().get(key)) is dict


def owner(key: str) -> str | None:
    """The schema's key that `key` belongs to: itself, the free-form mapping above it, or None when it is unknown."""
    if key in key_types():
        return key
    parts = key.split(".")
    above = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((name for name in above if is_free_form(name)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name most like `word`; a name's last part alone counts too, so that "steps" finds "train.steps"."""

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, word, name).ratio()
        last = difflib.SequenceMatcher(None, word.rpartition(".")[2], name.rpartition(".")[2]).ratio()
        return max(whole, 0.8 * last)

    return max(known, key=likeness)  # of equals the first, in the schema's order
