"""One setting of the engine under a load of given lengths, timed; and how much of the time its device had nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ..records import RolloutStats, Sampling, Trial, TrialLoad
from .engine import Engine
from .sequence import LiveSequence
from .traffic import token_bytes, weight_bytes

WARM_BLOCKS = {"cpu": 2, "cuda": 24}  # on a GPU as many as there are sizes of a batch to capture graphs for
PROFILED_SECONDS = {"cpu": 0.05, "cuda": 0.5}  # reading the events takes a hundred times as long on a CPU
OVER = 1.5  # times its seconds a round may take before it is broken off


class GivenLengths:
    """Ends every sequence at the length given for it; stands where the engine looks for stop texts."""

    def __init__(self, load: TrialLoad):
        names = [(r.uid, sample) for r in load.requests for sample in range(r.samples)]
        self.lengths: Mapping[tuple[str, int], int] = dict(zip(names, load.lengths, strict=True))

    def end(self, sequence: LiveSequence, fresh: int) -> int | None:
        """After how many tokens the sequence ends, when that is reached."""
        length = self.lengths[sequence.request.uid, sequence.sample]
        return length if sequence.length >= length else None

    def before(self, text: str) -> str:
        return text


def run_trial(engine: Engine, load: TrialLoad, mode: str, seconds: float) -> Trial:
    """Do the load again and again for about `seconds`, after a warm-up.

    Rounds count whole, with the tail in which slots stand empty; a first round that does not end in time is broken off and counts as
    far as it came.
    """
    warm_up(engine, load)
    before, started = engine.stats, time.perf_counter()
    after, elapsed, rounds, whole = before, 0.0, 0, True
    while whole and (rounds == 0 or elapsed * (1 + 0.5 / rounds) < seconds):
        whole = do_round(engine, load, OVER * seconds)
        if whole or rounds == 0:
            after, elapsed = engine.stats, time.perf_counter() - started
        rounds += whole
    done = difference(after, before)
    element = min(p.element_size() for p in engine.model.parameters())
    size = engine.slots.bytes_per_slot
    return Trial(
        seconds=elapsed, tokens=done.completion_tokens, rounds=rounds, steps=done.slot_steps / engine.slots.capacity,
        decode_seconds=done.decode_seconds, prefill_seconds=done.prefill_seconds,
        slots_in_use=done.completion_tokens / max(1, done.slot_steps), host_gap=host_gap(engine, load),
        bytes_per_slot=size, weight_bytes=weight_bytes(engine.model),
        token_bytes=token_bytes(engine.model.config, mode, size, element),
    )  # fmt: skip


def do_round(engine: Engine, load: TrialLoad, limit: float) -> bool:
    """The whole load once; False when it was broken off after `limit` seconds."""
    deadline = time.perf_counter() + limit
    begin(engine, load)
    while engine.busy:
        engine.step()
        if time.perf_counter() > deadline:
            engine.reset()
            return False
    return True


def begin(engine: Engine, load: TrialLoad) -> None:
    """Queue the load; its sequences end at their lengths, whatever they say."""
    engine.submit(load.requests, Sampling(max_tokens=max(load.lengths)))
    engine.stop_texts = GivenLengths(load)  # type: ignore[assignment]


def warm_up(engine: Engine, load: TrialLoad) -> None:
    """A round of short lengths, of all sizes, so that every size of a batch is met: kernels are compiled, graphs captured."""
    most = WARM_BLOCKS[engine.model.device.type] * engine.loop.block
    count = len(load.lengths)
    lengths = tuple(max(1, min(length, most * (i + 1) // count)) for i, length in enumerate(load.lengths))
    begin(engine, replace(load, lengths=lengths))
    while engine.busy:
        engine.step()


def difference(after: RolloutStats, before: RolloutStats) -> RolloutStats:
    return RolloutStats(*(getattr(after, f.name) - getattr(before, f.name) for f in fields(RolloutStats)))


def host_gap(engine: Engine, load: TrialLoad) -> float:
    """Share of a stretch of decoding in which the device had nothing to do: on a GPU no kernel, on a CPU no operator of torch.

    Under the profiler, which itself takes time on the host: an upper bound.
    """
    begin(engine, load)
    engine.step()  # fills the slots
    on_gpu = engine.model.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        deadline = time.perf_counter() + PROFILED_SECONDS[engine.model.device.type]
        while time.perf_counter() < deadline:
            if not engine.busy:
                begin(engine, load)
            engine.step()
    engine.reset()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    spans = [
        (e.time_range.start, e.time_range.end)
        for e in seen.events() or []
        if e.device_type == kind and (on_gpu or e.cpu_parent is None)
    ]
    return idle_share(spans)


def idle_share(spans: Iterable[tuple[float, float]]) -> float:
    """Of the time from the first start to the last end, the share in no span.

    >>> idle_share([(0, 1), (3, 4), (0.5, 1)])
    0.5
    """
    ordered = sorted(spans)
    if not ordered:
        return 1.0
    busy, end = 0.0, ordered[0][0]
    for start, stop in ordered:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1.0 - busy / max(end - ordered[0][0], 1e-9)
