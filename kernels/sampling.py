"""Drawing tokens with a counter-based generator, so that a token depends on its own logits and its own name alone.

The noise of vocabulary entry i at position t of one sample is a pure function of (seed, sequence, t, i): the same whatever the
batch, the slot, the order or the machine. Generator: Philox4x32-10 (Salmon et al., SC 2011). Token: argmax of logits / temperature
plus Gumbel noise (the Gumbel-max trick), which draws exactly from the softmax.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def sequence_key(uid: str, sample: int) -> int:
    """The 64-bit name under which a sample's noise is drawn."""
    digest = hashlib.blake2b(f"{uid}\0{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox4x32-10: four uint64 arrays holding 32-bit words, and two 32-bit key words -> four such arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c2 = (product1 >> SHIFT) ^ c1 ^ np.uint64(k0), (product0 >> SHIFT) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & LOW, product0 & LOW
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def gumbel_noise(seed: int, sequences: np.ndarray, positions: np.ndarray, vocab: int) -> np.ndarray:
    """Gumbel noise float32 [n, vocab] for n (sequence uint64, position) pairs.

    The counter is (block of four vocabulary entries, position, low and high half of the sequence key); the key is the seed.
    A word w becomes the uniform (w >> 8 + 0.5) / 2^24, never 0 or 1, and the noise -log(-log u).
    """
    blocks = -(-vocab // 4)
    grid = np.broadcast_arrays(
        np.arange(blocks, dtype=np.uint64)[None, :],
        positions.astype(np.uint64)[:, None],
        (sequences & LOW)[:, None],
        (sequences >> SHIFT)[:, None],
    )
    words = philox(list(grid), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    bits = np.stack(words, axis=-1).reshape(len(positions), 4 * blocks)[:, :vocab]
    uniform = ((bits >> np.uint64(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)
    uniform = np.minimum(
        uniform, np.float32(1 - 2.0**-24)
    )  # the largest word would round to 1, and its noise be infinite
    return -np.log(-np.log(uniform))


def sample_tokens(logits: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token a row. logits fp32 [n, V], noise [n, V] or None for greedy -> tokens int64 [n], logprobs fp32 [n].

    The logprob is that of the whole softmax at the temperature (greedy: at temperature 1).
    """
    if noise is None:
        tokens = logits.argmax(-1)
    else:
        if temperature != 1.0:
            logits = logits / temperature
        tokens = (logits + noise).argmax(-1)
    logprobs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, logprobs


def noise_tensor(seed: int, sequences: np.ndarray, positions: np.ndarray, vocab: int, device: torch.device) -> Tensor:
    """`gumbel_noise` as a tensor on a device."""
    return torch.from_numpy(gumbel_noise(seed, sequences, positions, vocab)).to(device)
