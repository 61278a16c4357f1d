"""What the command tune does: trials of the rollout engine in real processes, a search over its settings, and a report."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ..configs.loader import require_data
from ..configs.schema import Config, SourceConfig
from ..observe.console import Console
from ..observe.provenance import provenance
from ..observe.row_file import RowFile
from ..observe.run_folder import read_jsonl, write_text
from ..observe.tuning_report import draw, fragment, header, line, summary
from ..policy.blueprint import Blueprint
from ..records import EngineSetting, Request, TrialLoad
from ..rollout.engine import BLOCK
from ..rollout.sources import raw_rows
from ..rollout.tuning import Measurement, ladders, search, together
from .topology import cluster
from .trial_actor import TrialActor
from .watchdog import Interrupted, StopFlag, gather
from .workload import Workload, build_blueprint, build_tokenizer, load_workload

MOST_ACTORS = {"cpu": 8, "cuda": 4}  # processes tried on one device
TRIALS = 24  # that the time is meant for
SECONDS = (0.3, 20.0)  # a trial takes at least and at most
SEARCHING = 0.7  # share of the time; in the rest
FINALISTS, AGAIN = 3, 2  # so many of the best are measured so often again, since a machine has other things to do
MEASUREMENTS, PICTURE, FRAGMENT = "measurements.jsonl", "tuning.png", "tuned.yaml"


def run_tune(config: Config, base: str, folder: Path, lengths: str, minutes: float, overwrite: bool = False) -> int:
    """Search for `minutes` and report; what was measured stays in `folder` and a later call goes on from it.

    base: the preset or file that the configuration is from, which the YAML fragment names. lengths: rollouts of an earlier run, or
    empty: every completion takes rollout.max_tokens. Exit status 0, or 130 after a signal.
    """
    console, stop = Console(config.log.progress), StopFlag()
    require_data(config)
    tokenizer = build_tokenizer(config)
    blueprint, workload = build_blueprint(config, tokenizer), load_workload(config, tokenizer)
    given = completion_lengths(lengths) if lengths else [config.rollout.max_tokens]
    folder.mkdir(parents=True, exist_ok=True)
    most = most_actors(config)
    config.ray.cpus = config.ray.cpus or most + 1
    status = 0
    with stop.installed(), cluster(config):
        tuner = Tuner(config, blueprint, workload, given, most, console, stop)
        try:
            with tuner.opened(folder, overwrite):
                tuner.run(minutes)
        except Interrupted:
            console.warn(f"stopped; what was measured lies in {folder}, and the same command goes on from it")
            status = 130
        finally:
            tuner.close()
    report(tuner, config, base, folder, console)
    return status


class Tuner:
    """Trial actors on one device, and the measurements made with them."""

    def __init__(
        self, config: Config, blueprint: Blueprint, workload: Workload, lengths: Sequence[int], most: int,
        console: Console, stop: StopFlag,
    ):  # fmt: skip
        self.config, self.blueprint, self.console, self.stop = config, blueprint, console, stop
        self.most = most
        self.devices = devices(config)
        self.requests = device_requests(config, workload, self.devices)
        self.lengths = lengths
        self.shared = ray.put(blueprint)
        self.actors: list[Any] = []
        self.bandwidth = 0.0
        self.measured: dict[EngineSetting, list[Measurement]] = {}

    def opened(self, folder: Path, overwrite: bool) -> RowFile:
        """The file of measurements, with those of an earlier call taken over."""
        (name,) = self._ask("device_name", 1)
        (bandwidth,) = self._ask("bandwidth", 1)
        path = folder / MEASUREMENTS
        self.file = RowFile.open(path, self._circumstances(name), {"bandwidth": bandwidth}, overwrite)
        self.bandwidth = float(self.file.plan["bandwidth"])
        for row in read_jsonl(path):
            one = Measurement(**{**row, "setting": EngineSetting(**row["setting"])})
            self.measured.setdefault(one.setting, []).append(one)
        known = f"; {len(self.measured)} settings were measured before" if self.measured else ""
        self.console.say(f"{name}: a copy moves {self.bandwidth / 1e9:.1f} GB/s{known}")
        return self.file

    def figures(self) -> list[Measurement]:
        """One measurement a setting, the fastest setting first."""
        return sorted((middle(found) for found in self.measured.values()), key=lambda m: -m.tokens_per_second)

    def run(self, minutes: float) -> None:
        """Search until nothing gains or most of the time is over; the rest goes to the best ones again, in turns."""
        begun = time.monotonic()
        seconds = min(max(60 * minutes / TRIALS, SECONDS[0]), SECONDS[1])
        self.console.say(header())
        self._search(begun + 60 * minutes * SEARCHING, seconds)
        for _ in range(AGAIN):
            for one in self.figures()[:FINALISTS]:
                if time.monotonic() > begun + 60 * minutes or one.failure:
                    return
                self.console.say(line(self._measure(one.setting, seconds)))

    def _search(self, deadline: float, seconds: float) -> None:
        start = starting_point(self.config, self.devices)
        total = len(self.requests) * self.config.train.group
        choices = ladders(start, total, min(self.most, len(self.requests)), self.config.device == "cuda")
        said: set[EngineSetting] = set()

        def measure(setting: EngineSetting) -> float | None:
            share = math.ceil(len(self.requests) / setting.actors) * self.config.train.group
            setting = replace(setting, slots=min(setting.slots, share))  # more could not be filled
            if setting not in self.measured:
                if time.monotonic() > deadline and self.measured:
                    return None
                self._measure(setting, seconds)
            found = middle(self.measured[setting])
            if setting not in said:
                self.console.say(line(found))
                said.add(setting)
            return found.tokens_per_second

        search(start, choices, measure)

    def _measure(self, setting: EngineSetting, seconds: float) -> Measurement:
        """Run a trial in every process at the same time, and keep what comes of it."""
        loads = [self._load(part) for part in parted(self.requests, setting.actors)]
        trials = self._ask("measure", setting.actors, [(setting, load, seconds) for load in loads])
        found = together(setting, trials, self.bandwidth)
        self.measured.setdefault(setting, []).append(found)
        self.file.append([asdict(found)])
        return found

    def _load(self, requests: Sequence[Request]) -> TrialLoad:
        draw_from = np.random.default_rng(self.config.seed)
        count = sum(r.samples for r in requests)
        return TrialLoad(tuple(requests), tuple(int(x) for x in draw_from.choice(self.lengths, count)))

    def _ask(self, method: str, count: int, arguments: Sequence[tuple[Any, ...]] = ((),)) -> list[Any]:
        """Call `count` actors at the same time."""
        gpus = 1 / self.most if self.config.device == "cuda" else 0.0
        make = ray.remote(TrialActor).options(num_cpus=1, num_gpus=gpus, max_restarts=0)
        fresh: list[Any] = [make.remote(self.shared, self.config) for _ in range(count - len(self.actors))]
        self.actors += fresh
        timeout = self.config.rollout.timeout
        gather([a.device_name.remote() for a in fresh], timeout, "trial actors that start", self.stop)
        refs = [getattr(a, method).remote(*x) for a, x in zip(self.actors[:count], arguments, strict=True)]
        return gather(refs, timeout, f"trial actors: {method} of {arguments[0][:1]}", self.stop)

    def _circumstances(self, device: str) -> dict[str, Any]:
        """What makes measurements comparable, as JSON says it."""
        found = provenance()
        load = json.dumps([len(r.token_ids) for r in self.requests] + sorted(self.lengths))
        shape = json.dumps(self.blueprint.config.to_diff_dict(), sort_keys=True, default=str)
        return {
            "device": device, "cores": os.cpu_count(), "commit": found["commit"], "torch": found["torch"],
            "policy shape": hashlib.blake2b(shape.encode(), digest_size=8).hexdigest(),
            "kernels": self.blueprint.kernels, "threads": self.config.rollout.threads,
            "load": f"{len(self.requests)} prompts x {self.config.train.group}, "
            + hashlib.blake2b(load.encode(), digest_size=8).hexdigest(),
        }  # fmt: skip

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


def report(tuner: Tuner, config: Config, base: str, folder: Path, console: Console) -> None:
    """The table, the picture, the best setting as YAML, and what bounds it."""
    figures = tuner.figures()
    had = [m for m in figures if not m.failure]
    if not had:
        for one in figures:
            console.warn(one.failure)
        return
    best = had[0]
    console.say("\n".join(["", header(), *(line(m, m is best) for m in had)]))
    console.say("\n".join(["", *summary(best, tuner.bandwidth)]))
    draw(had, best, tuner.bandwidth, folder / PICTURE, f"{Path(base).stem}: {config.device}")
    write_text(folder / FRAGMENT, fragment(best, base, tuner.devices, config.device == "cuda"))
    console.say(f"\nbest: {folder / FRAGMENT} (mimosa train {folder / FRAGMENT})   picture: {folder / PICTURE}")
    console.say((folder / FRAGMENT).read_text())


def middle(found: Sequence[Measurement]) -> Measurement:
    """The median by tokens/s, of an even number the slower one in the middle."""
    return sorted(found, key=lambda m: m.tokens_per_second)[(len(found) - 1) // 2]


def completion_lengths(path: str) -> list[int]:
    """Tokens of every completion in a run's rollouts/ or in what generate wrote. Raises ValueError naming a row that has none."""
    lengths = []
    for row in raw_rows(SourceConfig(path=path)):
        ids = row.columns.get("token_ids")
        tokens = len(ids) if isinstance(ids, list) else row.columns.get("tokens")
        if not isinstance(tokens, int):
            raise ValueError(f"--lengths: {row.place}: got no tokens, wanted a row of a run's rollouts or of generate")
        lengths.append(max(1, tokens))
    if not lengths:
        raise ValueError(f"--lengths: got no rows from {path}, wanted one or more")
    return lengths


def devices(config: Config) -> int:
    """How many devices the configured rollout actors stand on."""
    return max(1, round(config.rollout.actors * (config.rollout.gpus or 1.0))) if config.device == "cuda" else 1


def most_actors(config: Config) -> int:
    """Processes that one device may hold."""
    cores = max(1, (os.cpu_count() or 1) // config.rollout.threads)
    return min(MOST_ACTORS[config.device], cores) if config.device == "cpu" else MOST_ACTORS["cuda"]


def device_requests(config: Config, workload: Workload, count: int) -> list[Request]:
    """One device's share of a step's requests."""
    prompts = math.ceil(config.train.prompts / count)
    rows = [workload.train[i % len(workload.train)] for i in range(prompts)]
    return [Request(f"{row.id}@{i}", workload.tokens[row.id], config.train.group) for i, row in enumerate(rows)]


def parted(requests: Sequence[Request], count: int) -> list[Sequence[Request]]:
    return [requests[i::count] for i in range(count)]


def starting_point(config: Config, count: int) -> EngineSetting:
    """The configured setting, where it says one; else what a step's sequences ask for."""
    actors = max(1, config.rollout.actors // count)
    sequences = math.ceil(config.train.prompts / count) * config.train.group
    most = min(actors, most_actors(config))
    return EngineSetting(
        actors=most, slots=config.rollout.slots or min(256, sequences),
        mode="recurrent" if config.rollout.decode == "auto" else config.rollout.decode,
        block=config.rollout.block or BLOCK[config.device], prefill_piece=config.rollout.prefill_piece,
    )  # fmt: skip
