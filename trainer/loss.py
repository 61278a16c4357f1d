"""Token-level policy loss: two-sided clipped importance ratio against the sampler's own logprobs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..configs.schema import LossConfig


@dataclass(frozen=True, slots=True)
class LossParts:
    """Sums over a micro-batch's loss tokens; divided by the update's token count they are means."""

    loss: (
        Tensor  # the term to differentiate, already weighted: its sum over ranks and micro-batches is the update's loss
    )
    entropy: Tensor
    clipped_low: Tensor  # tokens whose ratio the lower bound cut
    clipped_high: Tensor
    k3: Tensor  # exp(d) - 1 - d for d = new - old logprob: an estimate of KL(old || new) from old's samples


def policy_loss(
    logprobs: Tensor, entropy: Tensor, old: Tensor, advantages: Tensor, weights: Tensor, config: LossConfig
) -> LossParts:
    """Clipped surrogate of PPO (Schulman et al. 2017, eq. 7) with separate bounds (DAPO, 2503.14476).

    All arguments fp32 [T]; `weights` is a token's share in the update's mean and 0 outside completions.
    L = - sum_t weight_t min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) - coef * sum_t weight_t H_t, rho_t = exp(new - old).
    """
    learned = weights > 0
    delta = torch.where(learned, logprobs - old, 0.0)
    ratio = delta.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    loss = -(weights * surrogate).sum()
    if config.entropy_coef:
        loss = loss - config.entropy_coef * (weights * entropy).sum()
    with torch.no_grad():
        low = learned & (advantages < 0) & (ratio < 1 - config.clip_low)
        high = learned & (advantages > 0) & (ratio > 1 + config.clip_high)
        k3 = torch.where(learned, ratio - 1 - delta, 0.0).sum()
        return LossParts(loss, (entropy * learned).sum(), low.sum(), high.sum(), k3)


def supervised_loss(logprobs: Tensor, entropy: Tensor, weights: Tensor) -> LossParts:
    """Cross-entropy on the tokens with a weight."""
    learned = weights > 0
    nothing = torch.zeros((), device=logprobs.device)
    loss = -(weights * torch.where(learned, logprobs, 0.0)).sum()
    return LossParts(loss, (entropy.detach() * learned).sum(), nothing, nothing, nothing)


def token_weights(mask: Tensor, cu_seqlens: Tensor, tokens: int, sequences: int, aggregate: str) -> Tensor:
    """Each token's share in the update's mean, fp32 [T]: 1/tokens, or 1/(sequences * tokens of its sequence)."""
    if aggregate == "token":
        return mask / tokens
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=mask.device), lengths)
    counts = torch.zeros(len(lengths), device=mask.device).index_add_(0, owner, mask)
    return mask / (sequences * counts.clamp(min=1)[owner])
