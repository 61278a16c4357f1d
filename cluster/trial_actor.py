"""A process that measures rollout engines of one policy, one setting after the other."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..configs.schema import Config
from ..policy.blueprint import Blueprint
from ..records import FAILED_TRIAL, EngineSetting, Trial, TrialLoad
from ..rollout.bandwidth import copy_bandwidth
from ..rollout.engine import Engine
from ..rollout.trial import run_trial


class TrialActor:
    """Holds the policy; an engine lives for one trial."""

    def __init__(self, blueprint: Blueprint, config: Config):
        torch.set_num_threads(config.rollout.threads)
        self.device = config.device
        self.graphs = config.rollout.graphs and config.device == "cuda"
        self.tokenizer = blueprint.tokenizer
        self.model = blueprint.filled_model(config.device, config.model.path, config.seed)

    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else "CPU"

    def bandwidth(self) -> float:
        """Bytes per second of a copy on this device."""
        return copy_bandwidth(self.device)

    def measure(self, setting: EngineSetting, load: TrialLoad, seconds: float) -> Trial:
        """A trial, or one that says why the setting cannot be had."""
        try:
            engine = Engine(
                self.model, self.tokenizer, slots=setting.slots, block=setting.block, mode=setting.mode,
                prefill_piece=setting.prefill_piece, graphs=self.graphs,
            )  # fmt: skip
            return run_trial(engine, load, setting.mode, seconds)
        except (ValueError, torch.OutOfMemoryError) as error:
            return replace(FAILED_TRIAL, failure=str(error).splitlines()[0])
        finally:
            if self.device == "cuda":
                torch.cuda.empty_cache()
