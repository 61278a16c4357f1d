"""The search of `tune`: which settings are tried, in which order, and what the trials of one setting come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records import EngineSetting, Trial

ORDER = ("slots", "mode", "block", "actors", "prefill_piece", "slots")  # what usually gains most comes first


@dataclass(frozen=True, slots=True)
class Measurement:
    """One setting on one device: the trials of all its processes, which ran at the same time, together."""

    setting: EngineSetting
    tokens_per_second: float  # of the device
    step_ms: float  # mean over decode steps
    slots_in_use: float  # share
    host_gap: float  # share
    bytes_per_slot: int
    floor_share: float  # bytes that had to move over the copy bandwidth, as a share of the time
    parts: Mapping[str, float]  # share of the time by what it went into, see `parts_of`
    weight_bytes: int
    token_bytes: float
    whole: bool  # whole rounds, with their tails; else broken off by the time
    failure: str = ""


def together(setting: EngineSetting, trials: Sequence[Trial], bandwidth: float) -> Measurement:
    """What the processes' trials come to. bandwidth: bytes per second of the device, which they share."""
    failure = next((t.failure for t in trials if t.failure), "")
    if failure:
        return Measurement(setting, 0.0, 0.0, 0.0, 0.0, 0, 0.0, {}, 0, 0.0, False, failure)
    own = bandwidth / len(trials)
    parts = [parts_of(t, own) for t in trials]
    mean = {name: sum(p[name] for p in parts) / len(parts) for name in parts[0]}
    return Measurement(
        setting=setting,
        tokens_per_second=sum(t.tokens / t.seconds for t in trials),
        step_ms=1e3 * sum(t.decode_seconds for t in trials) / max(1.0, sum(t.steps for t in trials)),
        slots_in_use=sum(t.slots_in_use for t in trials) / len(trials),
        host_gap=sum(t.host_gap for t in trials) / len(trials),
        bytes_per_slot=trials[0].bytes_per_slot,
        floor_share=sum((t.steps * t.weight_bytes + t.tokens * t.token_bytes) / t.seconds for t in trials) / bandwidth,
        parts=mean,
        weight_bytes=trials[0].weight_bytes,
        token_bytes=trials[0].token_bytes,
        whole=all(t.rounds for t in trials),
    )


def parts_of(trial: Trial, bandwidth: float) -> dict[str, float]:
    """Where a trial's time went, as shares that add up to 1 (more, where caches beat the floors).

    prefill and host are measured, weights and state are bytes over bandwidth, compute is the device's time above these. What a step
    costs however few slots are in use (weights, host) is counted as tail for the share of slots that stood empty.
    """
    t = trial
    prefill = t.prefill_seconds * (1 - t.host_gap) / t.seconds
    weights = t.steps * t.weight_bytes / bandwidth / t.seconds
    state = t.tokens * t.token_bytes / bandwidth / t.seconds
    compute = max(0.0, 1 - t.host_gap - prefill - weights - state)
    used = t.slots_in_use
    return {
        "weights": weights * used, "state bytes": state, "host": t.host_gap * used, "compute": compute,
        "prefill": prefill, "tail": (weights + t.host_gap) * (1 - used),
    }  # fmt: skip


def ladders(start: EngineSetting, sequences: int, actors: int, on_gpu: bool) -> dict[str, list[int] | list[str]]:
    """The values to choose from. sequences: of one step on the device; actors: processes that it may hold at most."""
    slots = _doubling(4, max(4, sequences), start.slots)
    return {
        "slots": slots,
        "mode": ["recurrent", "replay"] if on_gpu else [start.mode],
        "block": _doubling(1, 64, start.block),
        "actors": _doubling(1, actors, start.actors),
        "prefill_piece": _doubling(256, 8192, start.prefill_piece, 4),
    }


def _doubling(low: int, high: int, own: int, factor: int = 2) -> list[int]:
    values = {own, high}
    while low < high:
        values.add(low)
        low *= factor
    return sorted(values)


def search(
    start: EngineSetting, choices: Mapping[str, Sequence[int] | Sequence[str]],
    measure: Callable[[EngineSetting], float | None],
) -> EngineSetting:  # fmt: skip
    """The best setting found by going along one coordinate after the other, upwards first, as long as it gains.

    measure: tokens/s of a setting, 0 for one that cannot be had, None when there is no time left, which ends the search.
    """
    best, rate = start, measure(start)
    if rate is None:
        return start
    for name in ORDER:
        for towards in (1, -1):
            gained = True
            while gained:
                values = list(choices[name])
                place = values.index(getattr(best, name)) + towards
                if not 0 <= place < len(values):
                    break
                tried = replace(best, **{name: values[place]})  # type: ignore[arg-type]
                found = measure(tried)
                if found is None:
                    return best
                gained = found > rate
                if gained:
                    best, rate = tried, found
    return best
