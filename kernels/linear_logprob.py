"""Log-probability and entropy of given tokens from hidden states, without a tensor of all logits of all tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1 << 24  # elements of [tokens, vocabulary] that may be live


def _block(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight)
    if temperature != 1.0:
        logits = logits / temperature
    log_p = logits.log_softmax(-1)
    picked = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked, -(log_p.exp() * log_p).sum(-1)


def linear_logprob_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Natural log-probability of each target and entropy (nats) of softmax(hidden weight^T / temperature).

    hidden [T, D], weight [V, D], targets int64 [T] -> logprob [T], entropy [T]; at least fp32. Tokens are taken in blocks and a
    block's logits are made again in the backward pass, so that LOGITS_AT_ONCE bounds the memory whatever T and V.
    """
    wide = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    hidden, weight, targets = hidden.to(wide), weight.to(wide), targets.long()
    rows = max(1, LOGITS_AT_ONCE // weight.shape[0])
    if hidden.shape[0] <= rows:
        return _block(hidden, weight, targets, temperature)
    parts = [
        checkpoint(_block, hidden[i : i + rows], weight, targets[i : i + rows], temperature, use_reentrant=False)
        for i in range(0, hidden.shape[0], rows)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)
