"""One learner rank: forward, loss, backward and optimizer updates of a policy under DeepSpeed ZeRO."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..configs.schema import LearnerConfig, OptimizerConfig
from ..policy.mamba3 import Mamba3ForCausalLM
from ..policy.weights import (
    cast_for_rollout,
    checksum,
    load_version,
    pack_version,
    rollout_dtypes,
    travelling_parameters,
)
from ..records import LearnReport, MicroBatch, Mismatch, PolicyVersion, Update
from .group import build_engine
from .loss import LossParts, policy_loss, supervised_loss, token_weights

NAMED_CULPRITS = 16  # sequences named at most when a whole update is suspect


@dataclass(slots=True)
class Tally:
    """Sums over one update's micro-batches on this rank."""

    loss: float = 0.0
    entropy: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    k3: float = 0.0
    culprits: list[str] = field(default_factory=list)

    def add(self, parts: LossParts, batch: MicroBatch) -> None:
        loss = float(parts.loss.detach())
        if not torch.isfinite(torch.tensor(loss)):
            self.culprits += batch.uids
        self.loss += loss
        self.entropy += float(parts.entropy)
        self.clipped_low += float(parts.clipped_low)
        self.clipped_high += float(parts.clipped_high)
        self.k3 += float(parts.k3)


class Learner:
    """A rank of the learner. Every public method is collective: all ranks must call it."""

    def __init__(
        self, model: Mamba3ForCausalLM, config: LearnerConfig, optimizer: OptimizerConfig, *, rank: int, world: int,
        updates: int, supervised: bool = False, temperature: float = 1.0, keep_shadow: bool = False,
    ):  # fmt: skip
        """model: fp32 parameters on the rank's device; updates: optimizer updates of the whole run, for the schedule;
        keep_shadow: hold a second copy for weights older than the own ones, see `mismatch`."""
        self.config, self.rank, self.world = config, rank, world
        self.supervised, self.temperature = supervised, temperature
        self.device = next(model.parameters()).device
        self.dtypes = rollout_dtypes(model)
        self._shadow = copy.deepcopy(model) if keep_shadow else None
        self._shadow_version: int | None = None
        self.engine = build_engine(model, config, optimizer, updates)
        self.dropped_in_a_row = 0

    @property
    def model(self) -> Mamba3ForCausalLM:
        return self.engine.module

    def learn(self, updates: Sequence[Update]) -> LearnReport:
        """Apply the updates in order. An update with a non-finite loss or gradient is dropped on all ranks alike.

        Raises FloatingPointError naming sequences after `max_nonfinite` dropped updates in a row.
        """
        applied, culprits, rows = 0, [], []
        for update in updates:
            tally = self._accumulate(update)
            self.engine.step()
            if self.engine.was_step_applied():
                applied += 1
                self.dropped_in_a_row = 0
                rows.append(self._metrics(tally, update))
                continue
            self.dropped_in_a_row += 1
            suspects = self._suspects(tally, update)
            culprits += suspects[:NAMED_CULPRITS]
            if self.dropped_in_a_row >= self.config.max_nonfinite:
                raise FloatingPointError(
                    f"{self.dropped_in_a_row} updates in a row had a non-finite loss or gradient; sequences: "
                    + ", ".join(suspects[:NAMED_CULPRITS])
                )
        metrics = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} if rows else {}
        return LearnReport(applied, len(updates) - applied, tuple(culprits), metrics)

    def _suspects(self, tally: Tally, update: Update) -> list[str]:
        """Sequences of micro-batches with a non-finite loss, on any rank; when only a gradient was, all of this rank's."""
        known = torch.tensor([float(bool(tally.culprits))], device=self.device)
        torch.distributed.all_reduce(known, op=torch.distributed.ReduceOp.MAX)
        return tally.culprits if known else [uid for batch in update.ranks[self.rank] for uid in batch.uids]

    def _accumulate(self, update: Update) -> Tally:
        tally = Tally()
        batches = update.ranks[self.rank]
        for i, batch in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
            parts = self._loss(batch, update)
            tally.add(parts, batch)
            # DeepSpeed averages over ranks; the loss is already this rank's share of the update's sum.
            self.engine.backward(parts.loss * self.world, scale_wrt_gas=False)
        return tally

    def _loss(self, batch: MicroBatch, update: Update) -> LossParts:
        logprobs, entropy = self._forward(self.engine, batch)
        mask, bounds = self._tensor(batch.mask), self._tensor(batch.cu_seqlens)
        how = self.config.loss
        weights = token_weights(mask, bounds, update.tokens, update.sequences, how.aggregate)
        if self.supervised:
            return supervised_loss(logprobs, entropy, weights)
        old, advantages = self._tensor(batch.logprobs), self._tensor(batch.advantages)
        return policy_loss(logprobs, entropy, old, advantages, weights, how)

    def _forward(self, module: torch.nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of every target and the entropy, fp32 [T]."""
        out = module(
            input_ids=self._tensor(batch.input_ids).unsqueeze(0),
            cu_seqlens=torch.from_numpy(batch.cu_seqlens),
            targets=self._tensor(batch.targets).unsqueeze(0),
            temperature=self.temperature,
        )
        return out.logprobs[0], out.entropy[0]

    def _metrics(self, tally: Tally, update: Update) -> dict[str, float]:
        sums = torch.tensor(
            [tally.loss, tally.entropy, tally.clipped_low, tally.clipped_high, tally.k3], device=self.device
        )
        torch.distributed.all_reduce(sums)
        loss, entropy, low, high, k3 = sums.tolist()
        return {
            "loss": loss,
            "entropy_trained": entropy / update.tokens,
            "clipped_low": low / update.tokens,
            "clipped_high": high / update.tokens,
            "kl_old_new": k3 / update.tokens,
            "grad_norm": float(self.engine.get_global_grad_norm()),
            "learning_rate": float(self.engine.get_lr()[0]),
        }

    @torch.no_grad()
    def mismatch(self, update: Update, sampled_with: PolicyVersion | None) -> Mismatch:
        """Compare the sampler's logprobs with this learner's, for the weights that sampled: its own (None) or an older version's.

        KL is the mean over tokens of exp(d) - 1 - d, d = learner - rollout: an unbiased, non-negative estimate of
        KL(rollout || learner).
        """
        module = self._weights_of(sampled_with)
        kl, count, spread, largest = 0.0, 0.0, 0.0, 0.0
        for batch in update.ranks[self.rank]:
            logprobs, entropy = self._forward(module, batch)
            learned = self._tensor(batch.mask) > 0
            delta = (logprobs.double() - self._tensor(batch.logprobs))[learned]
            if delta.numel():
                kl += float((delta.expm1() - delta).sum())
                count += delta.numel()
                spread += float(entropy[learned].sum())
                largest = max(largest, float(delta.abs().max()))
        sums = torch.tensor([kl, spread, count], device=self.device, dtype=torch.float64)
        peak = torch.tensor([largest], device=self.device)
        torch.distributed.all_reduce(sums)
        torch.distributed.all_reduce(peak, op=torch.distributed.ReduceOp.MAX)
        kl, spread, count = sums.tolist()
        return Mismatch(kl / max(count, 1), float(peak), spread / max(count, 1), int(count))

    def _weights_of(self, version: PolicyVersion | None) -> torch.nn.Module:
        if version is None:
            return self.engine
        if self._shadow is None:
            raise RuntimeError("mismatch: older weights were asked for, but the learner keeps no shadow copy")
        if self._shadow_version is None:
            cast_for_rollout(self._shadow)
        if self._shadow_version != version.number:
            load_version(self._shadow, version)
            self._shadow_version = version.number
        return self._shadow

    def export(self, number: int) -> PolicyVersion | None:
        """The weights as they are broadcast, on rank 0; None on the others."""
        with self._whole_parameters() as tensors:
            return pack_version(number, tensors, self.dtypes) if self.rank == 0 else None

    def checksum(self) -> str:
        """Of this rank's weights after the cast; equal on every rank and to the broadcast version's."""
        with self._whole_parameters() as tensors:
            return checksum((name, tensor.detach().to(self.dtypes[name])) for name, tensor in tensors.items())

    def save_policy(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder, from rank 0."""
        with self._whole_parameters() as tensors:
            if self.rank == 0:
                self.model.save_pretrained(folder, state_dict={n: t.detach().cpu().clone() for n, t in tensors.items()})

    @contextmanager
    def _whole_parameters(self) -> Iterator[dict[str, torch.nn.Parameter]]:
        """All parameters whole on every rank, gathered for the duration under ZeRO-3."""
        import deepspeed

        parameters = travelling_parameters(self.model)
        with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=self.config.zero_stage == 3):
            yield parameters

    def _tensor(self, array) -> Tensor:
        return torch.from_numpy(array).to(self.device)
