"""A learner rank behind an actor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import ray
import torch

from ..configs.schema import Config
from ..policy.blueprint import Blueprint
from ..records import LearnReport, Mismatch, PolicyVersion, Update
from ..trainer.checkpoint import load_learner, save_learner
from ..trainer.group import free_address, join_group
from ..trainer.learner import Learner


@dataclass(frozen=True, slots=True)
class LearnerTask:
    """What a group of learners is started for."""

    path: str  # policy to start from; empty: random weights
    supervised: bool  # warm start, or policy gradient
    updates: int  # optimizer updates of the whole run


class LearnerActor:
    """Holds one rank. `join` must be called on all ranks at once; then every method is collective."""

    def __init__(self, rank: int, blueprint: Blueprint, config: Config, task: LearnerTask):
        self.rank, self.blueprint, self.config, self.task = rank, blueprint, config, task
        torch.set_num_threads(config.learner.threads)

    def address(self) -> tuple[str, int]:
        """Where rank 0 can be met: this node's address in the cluster, and a free port."""
        return ray.util.get_node_ip_address(), free_address()[1]

    def join(self, address: str, port: int) -> None:
        """Form the process group and build the engine."""
        config, task, world = self.config, self.task, self.config.learner.actors
        join_group(self.rank, world, address, port, config.device, config.learner.timeout)
        self.learner = Learner(
            self.blueprint.learner_model(config.device, task.path, config.seed), config.learner,
            config.sft.optimizer if task.supervised else config.learner.optimizer, rank=self.rank, world=world,
            updates=task.updates, supervised=task.supervised, temperature=1.0 if task.supervised else config.rollout.temperature,
            keep_shadow=not task.supervised and config.train.mode != "sync",
        )  # fmt: skip

    def learn(self, updates: Sequence[Update]) -> LearnReport:
        return self.learner.learn(updates)

    def mismatch(self, update: Update, sampled_with: PolicyVersion | None) -> Mismatch:
        return self.learner.mismatch(update, sampled_with)

    def export(self, number: int) -> PolicyVersion | None:
        return self.learner.export(number)

    def checksum(self) -> str:
        return self.learner.checksum()

    def save(self, folder: str) -> None:
        save_learner(self.learner, folder)

    def load(self, folder: str) -> None:
        load_learner(self.learner, folder)

    def save_policy(self, folder: str) -> None:
        """Policy and tokenizer as a Hugging Face folder, written by rank 0."""
        self.learner.save_policy(folder)
        if self.rank == 0:
            self.blueprint.tokenizer.save_pretrained(folder)

    def pid(self) -> int:
        return os.getpid()
