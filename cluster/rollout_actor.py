"""A rollout engine behind an actor."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from ..configs.schema import Config
from ..policy.blueprint import Blueprint
from ..policy.weights import checksum, travelling_parameters
from ..records import Completion, PolicyVersion, Request, Sampling
from ..rollout.engine import Engine


class RolloutActor:
    """Generates completions with the weights it was last given."""

    def __init__(self, blueprint: Blueprint, config: Config):
        torch.set_num_threads(config.rollout.threads)
        self.loaded = False
        model = blueprint.rollout_model(config.device)
        self.engine = Engine(model, blueprint.tokenizer, slots=config.rollout.slots)

    def update_weights(self, version: PolicyVersion) -> int:
        """Load new weights in place; returns their number. Calls that were queued before it run with the old ones."""
        self.engine.update_weights(version)
        self.loaded = True
        return version.number

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """All completions of the requests, in order."""
        if not self.loaded:
            raise RuntimeError("rollout actor: asked to generate, but no weights have arrived whole")
        return self.engine.generate(requests, sampling)

    def checksum(self) -> str:
        """Of the weights in place."""
        return checksum((n, p.detach()) for n, p in travelling_parameters(self.engine.model).items())

    def pid(self) -> int:
        return os.getpid()
