"""Training without DeepSpeed and Ray, to compare with."""

from __future__ import annotations

import dataclasses

import torch

from mimosa.configs.schema import LossConfig, OptimizerConfig
from mimosa.trainer.group import learning_rate_factor
from mimosa.trainer.loss import policy_loss, token_weights


def plain_training(model: torch.nn.Module, updates, config: OptimizerConfig, total: int) -> list[float]:
    """Apply the updates of all ranks with torch alone, AdamW and clipping at 1; returns the gradient norms."""
    optimizer, norms = torch.optim.AdamW(model.parameters(), betas=tuple(config.betas), weight_decay=0), []
    factor = learning_rate_factor(config, total)
    for done, update in enumerate(updates):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = config.lr * factor(done)
        for batch in (b for rank in update.ranks for b in rank):
            t = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "uids"}
            t = {name: torch.from_numpy(array) for name, array in t.items()}
            out = model(t["input_ids"][None], cu_seqlens=t["cu_seqlens"], targets=t["targets"][None])
            weights = token_weights(t["mask"], t["cu_seqlens"], update.tokens, update.sequences, "token")
            parts = policy_loss(out.logprobs[0], out.entropy[0], t["logprobs"], t["advantages"], weights, LossConfig())
            parts.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    return norms
