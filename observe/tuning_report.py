"""What tune has to say: a table, a picture, the best setting as YAML, and what bounds it with the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from ..rollout.tuning import Measurement

COLUMNS = (
    ("actors", 6), ("slots", 6), ("mode", 9), ("block", 5), ("piece", 5), ("tokens/s", 10), ("ms/step", 8), ("KiB/slot", 9),
    ("of floor", 8), ("host gap", 8), ("slots used", 10),
)  # fmt: skip
SAID = {
    "weights": "the weights, which every decode step reads whole: more slots share one reading",
    "state bytes": "the bytes of the states, read and written for every token: another decode mode moves fewer",
    "host": "the host, on which the device waits: a longer block, more slots or more actors",
    "compute": "the device's arithmetic and launches, beyond the bytes that have to move",
    "prefill": "prefill of the prompts",
    "tail": "the tail: slots that stand empty while the last sequences end, for which a step costs the same",
}


def header() -> str:
    return "  ".join(f"{name:>{width}}" for name, width in COLUMNS)


def line(m: Measurement, best: bool = False) -> str:
    """One row of the table."""
    s = m.setting
    first = (s.actors, s.slots, s.mode, s.block, s.prefill_piece)
    if m.failure:
        return "  ".join(f"{v:>{w}}" for v, (_, w) in zip(first, COLUMNS, strict=False)) + f"  {m.failure}"
    figures = (
        f"{m.tokens_per_second:,.0f}", f"{m.step_ms:.3f}", f"{m.bytes_per_slot / 1024:,.1f}", f"{m.floor_share:.1%}",
        f"{m.host_gap:.0%}", f"{m.slots_in_use:.0%}",
    )  # fmt: skip
    row = "  ".join(f"{v:>{w}}" for v, (_, w) in zip((*first, *figures), COLUMNS, strict=True))
    return row + ("" if m.whole else "  (broken off)") + ("  <- best" if best else "")


def summary(best: Measurement, bandwidth: float) -> list[str]:
    """What bounds the best setting, largest part first."""
    s, own = best.setting, bandwidth / best.setting.actors
    weights, state = best.weight_bytes, s.slots * best.token_bytes
    floor = 1e3 * (weights + state) / own
    shared = f" / {s.actors} actors" if s.actors > 1 else ""
    bound, parts = bounds(best), sorted(best.parts.items(), key=lambda item: -item[1])
    return [
        f"floor of a decode step with all {s.slots} slots in use: (weights {size(weights)} + {s.slots} x {size(best.token_bytes)} of "
        f"state read and written = {size(weights + state)}) / ({bandwidth / 1e9:.1f} GB/s{shared}) = {floor:.4f} ms",
        f"measured: {best.step_ms:.4f} ms a step, {best.slots_in_use:.0%} of the slots in use; the bytes that had to move take "
        f"{best.floor_share:.1%} of the time",
        "of the time: " + ", ".join(f"{name} {share:.1%}" for name, share in parts),
        f"bound by {SAID[bound]}",
    ]


def bounds(m: Measurement) -> str:
    """The part that takes most of the time."""
    return max(m.parts, key=lambda name: m.parts[name])


def size(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def fragment(best: Measurement, base: str, devices: int, on_gpu: bool) -> str:
    """A configuration file that builds on `base` and sets what was found."""
    s = best.setting
    rollout: dict[str, object] = {
        "actors": s.actors * devices, "slots": s.slots, "decode": s.mode, "block": s.block, "prefill_piece": s.prefill_piece,
    }  # fmt: skip
    if on_gpu:
        rollout |= {"gpus": round(1 / s.actors, 4)}
    named = str(Path(base).resolve()) if Path(base).is_file() else base
    said = f"# {best.tokens_per_second:,.0f} tokens/s on each device when it was measured\n"
    return said + yaml.safe_dump({"base": named, "rollout": rollout}, sort_keys=False)


def draw(found: Sequence[Measurement], best: Measurement, bandwidth: float, path: Path, title: str) -> None:
    """tokens/s along each coordinate through the best setting, and the parts of the time of the best, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [n for n in ("slots", "block", "actors", "prefill_piece", "mode") if len(_along(found, best, n)) > 1]
    figure = Figure(figsize=(3.4 * (len(names) + 1), 3.6), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    for name, panel in zip(names, axes, strict=False):
        points = _along(found, best, name)
        panel.plot([str(v) for v, _ in points], [rate for _, rate in points], "o-", color="tab:blue")
        panel.set(xlabel=name, ylim=(0, 1.1 * max(rate for _, rate in points)))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("tokens/s" if names else "")
    parts = sorted(best.parts.items(), key=lambda item: item[1])
    axes[-1].barh([name for name, _ in parts], [share for _, share in parts], color="tab:orange")
    axes[-1].set(xlabel="share of the best one's time", xlim=(0, 1))
    figure.suptitle(f"{title}, {best.tokens_per_second:,.0f} tokens/s, copy {bandwidth / 1e9:.0f} GB/s", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)


def _along(found: Sequence[Measurement], best: Measurement, name: str) -> list[tuple[int | str, float]]:
    """(value, tokens/s) of the settings that differ from the best in one coordinate alone."""
    own = getattr(best.setting, name)
    near = [m for m in found if replace(m.setting, **{name: own}) == best.setting]
    return sorted((getattr(m.setting, name), m.tokens_per_second) for m in near)
