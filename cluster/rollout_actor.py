"""A rollout engine behind an actor."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from ..configs.schema import Config
from ..policy.blueprint import Blueprint
from ..policy.weights import checksum, travelling_parameters
from ..records import Completion, ParkedSequence, PolicyVersion, Request, RolloutStats, Sampling
from ..rollout.engine import Engine


class RolloutActor:
    """Generates completions with the weights it was last given."""

    def __init__(self, blueprint: Blueprint, config: Config):
        torch.set_num_threads(config.rollout.threads)
        self.loaded = False
        model = blueprint.rollout_model(config.device)
        r = config.rollout
        self.engine = Engine(
            model, blueprint.tokenizer, slots=r.slots, block=r.block, prefill_piece=r.prefill_piece, mode=r.decode,
            graphs=r.graphs and config.device == "cuda", memory_share=memory_share(config), on_swap=r.on_swap,
            swap_sample=r.swap_sample, max_prompt_tokens=config.data.max_prompt_tokens,
        )  # fmt: skip

    def update_weights(self, version: PolicyVersion) -> int:
        """Load new weights in place; returns their number. Calls that were queued before it run with the old ones."""
        self.engine.update_weights(version)
        self.loaded = True
        return version.number

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """All completions of the requests, in order. What was submitted before is parked meanwhile."""
        self._check_loaded()
        before, parked = self.engine.sampling, self.engine.park()
        try:
            return self.engine.generate(requests, sampling)
        finally:
            if parked:
                self.engine.submit([], before, parked)

    def submit(self, requests: Sequence[Request], sampling: Sampling, parked: Sequence[ParkedSequence] = ()) -> None:
        """Take requests in, to be worked on in slices."""
        self._check_loaded()
        self.engine.submit(requests, sampling, parked)

    def work(self, seconds: float, groups: int) -> list[Completion]:
        """Go on with what was submitted: for so many seconds at most, until so many requests are completed or nothing is left."""
        end, found = time.monotonic() + seconds, list[Completion]()
        while groups > 0 and self.engine.busy and time.monotonic() < end:
            finished = self.engine.step()
            found += finished
            groups -= len({c.uid for c in finished} - self.engine.open.keys())
        return found

    def abort(self) -> None:
        """Forget what was submitted."""
        self.engine.reset()

    def _check_loaded(self) -> None:
        if not self.loaded:
            raise RuntimeError("rollout actor: asked to generate, but no weights have arrived whole")

    def checksum(self) -> str:
        """Of the weights in place."""
        return checksum((n, p.detach()) for n, p in travelling_parameters(self.engine.model).items())

    def stats(self) -> RolloutStats:
        """What the engine has done since it was made."""
        return self.engine.stats

    def pid(self) -> int:
        return os.getpid()


def memory_share(config: Config) -> float:
    """An actor's share of the free memory: actors on one device divide it."""
    r = config.rollout
    return r.memory_share * (min(r.gpus or 1.0, 1.0) if config.device == "cuda" else 1 / r.actors)
