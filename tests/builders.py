"""Small records for tests."""

from __future__ import annotations

import numpy as np

from mimosa.policy.config import Mamba3Config
from mimosa.records import Completion, Group, Prompt, Request, Sample, Verdict


def tiny_config(**changes) -> Mamba3Config:
    """A MIMO policy of 112,528 parameters, the quickstart's; any field can be changed."""
    fields = dict(vocab_size=17, d_model=64, n_layer=2, d_intermediate=128, d_state=16, headdim=32, is_mimo=True,
                  mimo_rank=2, dt_min=0.01, dt_max=0.5)  # fmt: skip
    return Mamba3Config(**{**fields, **changes})


def verdict(score) -> Verdict:
    """A number: scored; None: the verifier failed; "skipped"."""
    if score is None:
        return Verdict("verifier_failed", None, "crashed")
    if score == "skipped":
        return Verdict("skipped", None, "truncated")
    return Verdict("scored", float(score), "test")


def completion(uid: str, sample: int, tokens: int = 4, version: int = 0) -> Completion:
    rng = np.random.default_rng(sample)
    return Completion(uid, sample, rng.integers(0, 17, tokens).astype(np.int32), -rng.random(tokens).astype(np.float32),
                      np.full(tokens, version, np.int32), "stop", "text")  # fmt: skip


def group(scores, prompt=(1, 2, 3), uid: str = "p@0") -> Group:
    request = Request(uid, np.array(prompt, np.int32), len(scores))
    completions = tuple(completion(uid, i, 2 + i) for i in range(len(scores)))
    return Group(Prompt("p", "1+2=", "math", "3"), request, completions, tuple(verdict(s) for s in scores))


def samples(count: int, seed: int = 0, longest: int = 12, prompt: int = 6) -> list[Sample]:
    """Random training sequences of a prompt and 1..longest-1 completion tokens."""
    rng = np.random.default_rng(seed)
    return [
        Sample(f"u{i}", 0, rng.integers(0, 17, prompt + n).astype(np.int32), prompt, np.full(n, -2.8, np.float32),
               float(rng.normal()))
        for i, n in enumerate(rng.integers(1, longest, count))
    ]  # fmt: skip
