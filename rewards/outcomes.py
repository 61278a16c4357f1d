"""What a foreign reward function or endpoint returned, read as a score, and refused when it is none.

Imports nothing heavy: it runs beside the function, in the process that loads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

COMPONENTS = 32  # at most, and so many characters of a name
REASON = 2000  # characters that travel
SLACK = 1e-6  # beyond the ends of the scale: what rounding does


class Unsound(Exception):
    """The value is no score; the message says what came and what was wanted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one answer. limit: what it ran into, "time" or "memory"; then whose fault that is, is still to be found out."""

    status: str  # "scored", "verifier_failed", "skipped" or "limit"
    score: float | None = None
    reason: str = ""
    components: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For the way to another process; a reason is a line, whatever was given for one."""
        return {**asdict(self), "reason": self.reason[:REASON]}


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of a function's scores, mapped linearly to 0..1. key: of the score in a returned mapping."""

    low: float = 0.0
    high: float = 1.0
    key: str = "score"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"options low and high are {self.low} and {self.high}, wanted finite numbers, low below high"
            )

    def mapped(self, value: float) -> float:
        """Raises Unsound for what is not on the scale."""
        if not math.isfinite(value):
            raise Unsound(f"returned the score {value}, wanted a finite number")
        share = (value - self.low) / (self.high - self.low)
        if not -SLACK <= share <= 1 + SLACK:
            raise Unsound(
                f"returned the score {value:g}, wanted one from {self.low:g} to {self.high:g}; "
                "the options low and high name another scale"
            )
        return min(1.0, max(0.0, share))


def single(value: Any, scale: Scale) -> Outcome:
    """The outcome that one returned value means. Raises Unsound."""
    value = plain(value)
    if value is None:
        return Outcome("skipped", None, "returned None: not applicable")
    if isinstance(value, Mapping):
        return _of_mapping(value, scale)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 1:
        return single(value[0], scale)  # a list of one answer's scores
    number = _number(value)
    return Outcome("scored", scale.mapped(number), f"returned {number:g}")


def several(value: Any, count: int, scale: Scale) -> list[Outcome | str]:
    """The outcomes of `count` answers; a text in the place of one says why there is none. Raises Unsound for the whole."""
    value = plain(value)
    if isinstance(value, Mapping):
        value = _rows(value, count, scale)
    if value is None:
        return [Outcome("skipped", None, "returned None: not applicable")] * count
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise Unsound(f"returned {shown(value)}, wanted a list of {count} scores")
    if len(value) != count:
        raise Unsound(f"returned {len(value)} scores for {count} answers")
    found: list[Outcome | str] = []
    for one in value:
        try:
            found.append(single(one, scale))
        except Unsound as why:
            found.append(str(why))
    return found


def plain(value: Any) -> Any:
    """Arrays, tensors and scalars of numeric libraries as builtins."""
    if isinstance(value, (bool, int, float, str, bytes, list, tuple, Mapping)) or value is None:
        return value
    for name in ("tolist", "item"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    return list(value) if isinstance(value, (set, frozenset)) or hasattr(value, "__next__") else value


def shown(value: Any) -> str:
    """A value in a few words."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - the border to foreign code: a value's own text may raise
        text = f"(no text: {type(error).__name__})"
    kind = type(value).__name__
    return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}"


def _number(value: Any) -> float:
    value = plain(value)
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError as error:
            raise Unsound("returned a score beyond every float") from error
    try:
        if not isinstance(value, (str, bytes, Mapping, Sequence)):
            return float(value)  # Fraction, Decimal
    except (TypeError, ValueError) as error:
        raise Unsound(f"returned {shown(value)}, wanted a number") from error
    raise Unsound(f"returned {shown(value)}, wanted a number")


def _of_mapping(value: Mapping[Any, Any], scale: Scale) -> Outcome:
    """`score` (or the key that was named) is the score; other numbers are components, texts go to the reason."""
    if scale.key not in value:
        keys = ", ".join(str(key) for key in list(value)[:8])
        raise Unsound(f"returned a mapping without {scale.key!r}; it has {keys or 'nothing'}")
    score = plain(value[scale.key])
    others = {str(key)[:COMPONENTS]: one for key, one in value.items() if key != scale.key}
    texts = {key: one for key, one in others.items() if isinstance(one, str)}
    said = texts.pop("reason", "")
    reason = "; ".join(filter(None, [said, *(f"{key}: {one}" for key, one in texts.items())]))
    nested = others.pop("components", None)
    numbers = {**others, **(nested if isinstance(nested, Mapping) else {})}
    components = {str(key)[:COMPONENTS]: plain(one) for key, one in numbers.items()}
    kept = {key: float(one) for key, one in components.items() if _is_component(one)}
    if score is None:
        return Outcome("skipped", None, reason or "returned no score: not applicable")
    number = _number(score)
    return Outcome(
        "scored", scale.mapped(number), reason or f"returned {number:g}", dict(list(kept.items())[:COMPONENTS])
    )


def _is_component(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and abs(value) < 1e300  # false for nan


def _rows(value: Mapping[Any, Any], count: int, scale: Scale) -> list[Any] | None:
    """A mapping of lists, as batched functions return it, turned into one mapping an answer."""
    key = next((name for name in (scale.key, "rewards", "scores", "score") if name in value), None)
    if key is None:
        raise Unsound(f"returned a mapping with neither {scale.key!r} nor 'rewards'")
    scores = plain(value[key])
    if scores is None:
        return None
    if isinstance(scores, (str, bytes)) or not isinstance(scores, Sequence):
        if count == 1:
            scores = [scores]
        else:
            raise Unsound(f"returned {shown(scores)} as {key!r}, wanted a list of {count} scores")
    if len(scores) != count:
        raise Unsound(f"returned {len(scores)} scores for {count} answers")
    logs = value.get("extra_logs")
    columns = {name: plain(one) for name, one in {**value, **(logs if isinstance(logs, Mapping) else {})}.items()}
    columns = {
        name: one for name, one in columns.items()
        if name != key and isinstance(one, (list, tuple)) and len(one) == count
    }  # fmt: skip
    return [{**{name: one[i] for name, one in columns.items()}, scale.key: scores[i]} for i in range(count)]
