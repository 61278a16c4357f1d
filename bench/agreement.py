"""How many sampled tokens have the logprob that the learner computes for them, bit for bit, at the size of the 1.5B model."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..policy.config import Mamba3Config
from ..policy.mamba3 import Mamba3ForCausalLM
from ..policy.weights import cast_for_rollout
from ..records import Sampling
from ..rollout.decode_loop import DecodeLoop
from ..rollout.sampler import Sampler
from .record import Figure, figure

VOCAB, PROMPT, BLOCK = 128_256, 37, 32
PACKED = 64  # sequences of one forward pass on the learner's side
BATCHES = ((1, 8), (128, 8), (512, 4))  # slots, and blocks of BLOCK tokens that each decodes


def policy(mimo: bool) -> Mamba3ForCausalLM:
    """Random weights of the 1.5B shape, linear layers and head in bf16, on the GPU."""
    config = Mamba3Config(
        vocab_size=VOCAB, d_model=2048, n_layer=24, d_intermediate=3824 if mimo else 4096, is_mimo=mimo, compute_dtype="bf16",
        head_dtype="bf16",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        return Mamba3ForCausalLM(config).eval()


def bench_agreement(rates: Any) -> Iterator[Figure]:
    """Decode in replay mode through CUDA graphs, then the learner's forward pass over the same tokens with the same weights."""
    for mimo in (False, True):
        learner = policy(mimo)
        rollout = copy.deepcopy(learner)
        cast_for_rollout(rollout)
        for slots, blocks in BATCHES:
            prompts = torch.randint(0, VOCAB, (slots, PROMPT))
            tokens, logprobs, seconds = sampled(rollout, prompts, blocks)
            kind = f"{'MIMO R=4' if mimo else 'SISO'} 1.5B, random weights, bf16, {slots} slots"
            yield figure("decode step, replay", kind, "ms", [1e3 * s / BLOCK for s in seconds[1:]],
                         note=f"{slots * BLOCK / sorted(seconds)[len(seconds) // 2]:,.0f} tokens/s")  # fmt: skip
            difference = learned(learner, torch.cat([prompts, tokens], 1)) - logprobs
            equal, kl = (difference == 0).double().mean(), (difference.double().expm1() - difference.double()).mean()
            yield figure("decode logprob = learner logprob", kind, "share of tokens", [float(equal)],
                         note=f"{difference.numel()} tokens, KL {float(kl):.3g}")  # fmt: skip
        del learner, rollout
        torch.cuda.empty_cache()


def sampled(
    model: Mamba3ForCausalLM, prompts: torch.Tensor, blocks: int
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Tokens and logprobs [slots, blocks * BLOCK] after prompts int64 [slots, PROMPT], and the seconds of each block."""
    n, device = len(prompts), model.device
    slots = model.slots(n, "replay")
    body = prompts[:, :-1].reshape(-1).to(device)
    slots.prefill(body, torch.arange(0, len(body) + 1, PROMPT - 1, dtype=torch.int32), list(range(n)))
    loop = DecodeLoop(slots, device, BLOCK, VOCAB, graphs=True)
    sampler = Sampler(model.head(), VOCAB, Sampling(max_tokens=1 << 20, seed=7), device)
    current, found, seconds = prompts[:, -1].numpy(), [], []
    for block in range(blocks):
        rows = np.stack([current, np.arange(n), np.full(n, BLOCK * block), np.full(n, 1 << 20), np.arange(n)])
        start = time.perf_counter()
        found.append(loop.run(rows.astype(np.int64), sampler))
        seconds.append(time.perf_counter() - start)
        current = found[-1].tokens[:, -1]
    tokens, logprobs = (np.concatenate([getattr(r, name) for r in found], 1) for name in ("tokens", "logprobs"))
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(logprobs), seconds


@torch.no_grad()
def learned(model: Mamba3ForCausalLM, whole: torch.Tensor) -> torch.Tensor:
    """The learner's logprobs of the completions in whole int64 [n, PROMPT + tokens], fp32 on the host."""
    parts = []
    for rows in whole.split(PACKED):
        T = rows.shape[1] - 1
        bounds = torch.arange(0, len(rows) * T + 1, T, dtype=torch.int32)
        rows = rows.to(model.device)
        out = model(rows[:, :-1].reshape(1, -1), cu_seqlens=bounds, targets=rows[:, 1:].reshape(1, -1))
        parts.append(out.logprobs.view(-1, T)[:, PROMPT - 1 :].cpu())
    return torch.cat(parts)
