"""From hidden states to tokens and their logprobs, by a counter-based generator: a token depends on its row and its name alone.

`draw` is what a decode block calls at every step; a fused kernel of head, choice and logprob goes behind the same method.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..kernels.sampling import MULTIPLIERS, ROUNDS, WEYL, noise_tensor, sample_tokens
from ..policy.head import Head
from ..records import Sampling

NOISE_ELEMENTS = 1 << 22  # host noise made ahead of its use
LOW = 0xFFFFFFFF


class Sampler:
    """Draws by the Gumbel-max trick from softmax(logits / temperature), or takes the likeliest at temperature 0.

    The noise of vocabulary entry i is a function of (seed, key of the sequence, position in the completion, i), made by Philox: on
    the host for several steps at once, where its cost lies in the call, and in the block on a device.
    """

    def __init__(self, head: Head, vocab: int, sampling: Sampling, device: torch.device):
        """Raises ValueError for a sampling that cannot be."""
        check_sampling(sampling)
        self.head, self.vocab, self.sampling = head, vocab, sampling
        self.on_host = device.type == "cpu"
        self._steps = 0
        self._first = 0  # step of the block that _noise begins with
        self._noise: Tensor | None = None  # [steps ahead, n, vocab]

    @property
    def baked(self) -> tuple[float, ...]:
        """What a captured graph of `draw` holds fast."""
        s = self.sampling
        return (s.temperature, s.seed, s.top_k, s.top_p, s.min_p)

    def begin(self, steps: int) -> None:
        """A block of at most `steps` steps begins; its rows stay the same."""
        self._steps, self._first, self._noise = steps, 0, None

    def draw(self, hidden: Tensor, keys: Tensor, positions: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """hidden [n, D], keys and positions int64 [n], the block's step number -> tokens int64 [n], logprobs fp32 [n].

        positions are those of the block's first step. The logprob is that of the whole softmax at the temperature, at
        temperature 0 of that at 1, from the logits as they are.
        """
        s = self.sampling
        if self.head.draws and s.whole_softmax:
            seed = torch.full((1,), signed(s.seed), dtype=torch.int64, device=hidden.device)
            return self.head.draw(hidden, seed, keys, positions + step, s.temperature)
        logits = self.head(hidden)
        if s.temperature == 0:
            return sample_tokens(logits, None, 1.0)
        noise = self._host_noise(keys, positions, step) if self.on_host else None
        if noise is None:
            noise = device_noise(s.seed, keys, positions + step, self.vocab)
        if s.whole_softmax:
            return sample_tokens(logits, noise, s.temperature)
        scaled = logits / s.temperature
        tokens = (allowed(scaled, s) + noise).argmax(-1)
        return tokens, scaled.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def _host_noise(self, keys: Tensor, positions: Tensor, step: int) -> Tensor:
        if self._noise is None or step >= self._first + len(self._noise):
            rows = len(keys)
            ahead = max(1, min(self._steps - step, NOISE_ELEMENTS // (rows * self.vocab)))
            names = np.tile(keys.numpy().view(np.uint64), ahead)
            places = (positions.numpy() + np.arange(step, step + ahead)[:, None]).ravel()
            noise = noise_tensor(self.sampling.seed, names, places, self.vocab, keys.device)
            self._first, self._noise = step, noise.view(ahead, rows, self.vocab)
        return self._noise[step - self._first]


def signed(word: int) -> int:
    """The low 64 bits of a seed as the int64 that has them."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def check_sampling(s: Sampling) -> None:
    """Raise ValueError naming the first field that cannot be."""
    rules = (
        ("max_tokens", s.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= s.temperature < math.inf, "a finite number, 0 or more"),
        ("top_k", s.top_k >= 0, "0 or more"),
        ("top_p", 0 < s.top_p <= 1, "a number above 0, at most 1"),
        ("min_p", 0 <= s.min_p <= 1, "a number from 0 to 1"),
        ("deadline", s.deadline >= 0, "0 or more seconds"),
    )
    for name, fits, wanted in rules:
        if not fits:
            raise ValueError(f"sampling.{name}: got {getattr(s, name)}, wanted {wanted}")


def allowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [n, V] at the temperature, -inf where min-p, top-k or top-p (of what the first two leave) rule a token out.

    The likeliest token is always allowed; equals of the last one allowed by top-k are too.
    """
    out = -math.inf
    if sampling.min_p:
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(sampling.min_p), out)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], out)
    if sampling.top_p < 1:
        ordered, order = logits.sort(stable=True, dim=-1, descending=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        ordered = ordered.masked_fill(before >= sampling.top_p, out)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    return logits


def device_noise(seed: int, keys: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """`gumbel_noise` of kernels/sampling.py in tensor operations on any device: int64 [n] and [n] -> fp32 [n, vocab]."""
    block = torch.arange(-(-vocab // 4), device=keys.device)[None, :]
    zero = torch.zeros_like(block)
    c0, c1 = block + zero, positions[:, None] + zero
    c2, c3 = (keys & LOW)[:, None] + zero, ((keys >> 32) & LOW)[:, None] + zero
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # modulo 2^64, as the unsigned product
        c0, c2 = ((p1 >> 32) & LOW) ^ c1 ^ k0, ((p0 >> 32) & LOW) ^ c3 ^ k1
        c1, c3 = p1 & LOW, p0 & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    bits = torch.stack([c0, c1, c2, c3], dim=-1).flatten(1)[:, :vocab]
    uniform = ((bits >> 8).float() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform.clamp(max=1 - 2.0**-24)))
