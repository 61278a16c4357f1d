"""The language model's head: logits, logprobs of given tokens, and tokens drawn, from hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.dispatch import linear_logprob, sample_logprob
from .config import Mamba3Config


class LMHead(nn.Linear):
    """Logits of the ids that can be sampled: sums, softmax and result in fp32 (fp64 in an fp64 model) whatever the model's dtype.

    The operands are fp32 too, unless the configuration's head_dtype is bf16.
    """

    def __init__(self, config: Mamba3Config):
        super().__init__(config.d_model, config.padded_vocab_size, bias=False)
        self.vocab = config.vocab_size
        self.operands = torch.bfloat16 if config.head_dtype == "bf16" else torch.float32

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0, backend: str = "reference"
    ) -> Any:
        """hidden [..., D] -> logits [..., V]; with targets [...]: (logprobs, entropy), both [...]."""
        if targets is None:
            hidden, weight = self.rounded(hidden)
            wide = torch.promote_types(hidden.dtype, torch.float32)
            return F.linear(hidden.to(wide), weight.to(wide))
        hidden, weight = self.rounded(hidden.flatten(0, -2))
        logprobs, entropy = linear_logprob(hidden, weight, targets.flatten(), temperature, backend)
        return logprobs.view(targets.shape), entropy.view(targets.shape)

    def rounded(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors in the dtype in which they are multiplied."""
        weight = self.weight[: self.vocab]
        if torch.float64 in (hidden.dtype, weight.dtype):
            return hidden, weight
        return hidden.to(self.operands), weight.to(self.operands)


@dataclass(frozen=True)
class Head:
    """A policy's head on one backend, as a decode loop calls it."""

    module: LMHead
    backend: str  # reference or triton

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden [n, D] -> logits fp32 [n, V]."""
        logits: Tensor = self.module(hidden)
        return logits

    @property
    def draws(self) -> bool:
        """Whether `draw` may be called: there is a kernel that multiplies, adds the noise and chooses."""
        return self.backend == "triton"

    def draw(
        self, hidden: Tensor, seed: Tensor, keys: Tensor, positions: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """hidden [n, D]; seed int64 [1], keys and positions int64 [n] -> tokens int64 [n] and logprobs fp32 [n].

        The logprob of a drawn token has the bits of `LMHead.forward` with it as the target, whatever the batch.
        """
        return sample_logprob(*self.module.rounded(hidden), seed, keys, positions, temperature)
