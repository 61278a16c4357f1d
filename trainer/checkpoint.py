"""A learner's state on disk: every rank's parameters and optimizer, and the schedule and generator state, alike on all ranks."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..configs.schema import LearnerConfig
from ..policy.checkpoint import check_shapes
from ..policy.weights import travelling_parameters
from .learner import Learner

TAG = "learner"
MANIFEST = "manifest.json"


def save_learner(learner: Learner, folder: str) -> None:
    """Write this rank's part into `folder`; collective. The caller renames the folder once every rank has returned."""
    client_state = {"torch_rng": torch.get_rng_state(), "dropped_in_a_row": learner.dropped_in_a_row}
    learner.engine.save_checkpoint(folder, tag=TAG, client_state=client_state, save_latest=False)
    if learner.rank == 0:
        (Path(folder) / MANIFEST).write_text(json.dumps(_manifest(learner.model, learner.config), indent=1) + "\n")


def load_learner(learner: Learner, folder: str) -> None:
    """Restore this rank from `folder`; collective.

    Raises ValueError naming the tensor or setting that differs from what the checkpoint was written with.
    """
    check_learner(folder, learner.model, learner.config)
    loaded, client_state = learner.engine.load_checkpoint(folder, tag=TAG)
    if loaded is None:
        raise ValueError(f"{folder}: DeepSpeed found no checkpoint there")
    torch.set_rng_state(client_state["torch_rng"])
    learner.dropped_in_a_row = client_state["dropped_in_a_row"]


def check_learner(folder: str, model: torch.nn.Module, config: LearnerConfig) -> None:
    """Raise ValueError, as `load_learner` does, when the checkpoint in `folder` is not one of such a model and configuration."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}: got no {MANIFEST}, wanted a whole checkpoint")
    saved, own = json.loads(path.read_text()), _manifest(model, config)
    expected = {name: torch.empty(shape, device="meta") for name, shape in own["shapes"].items()}
    check_shapes(expected, {name: tuple(shape) for name, shape in saved["shapes"].items()}, folder)
    for key, field in (("world", "learner.actors"), ("zero_stage", "learner.zero_stage")):
        if saved[key] != own[key]:
            raise ValueError(f"{field}: got {own[key]}, wanted {saved[key]}, with which {folder} was written")


def _manifest(model: torch.nn.Module, config: LearnerConfig) -> dict:
    # Under ZeRO-3 a parameter is a shard; ds_shape is the whole one's.
    shapes = {n: list(getattr(p, "ds_shape", p.shape)) for n, p in travelling_parameters(model).items()}
    return {"world": config.actors, "zero_stage": config.zero_stage, "shapes": shapes}
