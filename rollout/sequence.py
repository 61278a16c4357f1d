"""A sample under way: its tokens so far, where it stands, and how it becomes a completion or is parked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..kernels.sampling import sequence_key
from ..records import Completion, FinishReason, ParkedSequence, Request, Sampling


@dataclass(slots=True, eq=False)
class LiveSequence:
    """One sample of a request in an engine."""

    request: Request
    sample: int
    prompt: np.ndarray  # int32, at least one token: what the policy reads
    key: int = 0  # names its sampling noise; a uint64 read as int64
    slot: int = -1  # -1: waits for one
    length: int = 0  # tokens so far
    tokens: list[np.ndarray] = field(default_factory=list)  # int32 pieces, as blocks gave them
    logprobs: list[np.ndarray] = field(default_factory=list)  # float32 pieces
    versions: list[tuple[int, int]] = field(default_factory=list)  # (version, tokens it sampled), piece by piece
    seconds: float = 0.0  # spent in slots before this admission
    since: float = 0.0  # monotonic time of this admission

    def __post_init__(self) -> None:
        key = sequence_key(self.request.uid, self.sample)
        self.key = key - (1 << 64) if key >> 63 else key

    @property
    def next_input(self) -> int:
        """The token that the next decode step reads; the state holds all before it."""
        return int(self.tokens[-1][-1]) if self.length else int(self.prompt[-1])

    def context(self) -> np.ndarray:
        """The tokens that the state holds: all but the next input."""
        return np.concatenate([self.prompt, *self.tokens])[:-1]

    def place(self, slot: int) -> None:
        self.slot, self.since = slot, time.monotonic()

    def spent(self) -> float:
        """Seconds in slots."""
        return self.seconds + (time.monotonic() - self.since if self.slot >= 0 else 0.0)

    def append(self, tokens: np.ndarray, logprobs: np.ndarray, version: int) -> None:
        """Tokens of one block, all sampled by one version."""
        self.tokens.append(tokens)
        self.logprobs.append(logprobs)
        self.versions.append((version, len(tokens)))
        self.length += len(tokens)

    def token_ids(self) -> np.ndarray:
        """int32 [L], all tokens so far."""
        if len(self.tokens) != 1 or self.tokens[0].base is not None:  # a piece is a view of its block
            self.tokens = [_joined(self.tokens, np.int32)]
        return self.tokens[0]

    def policy_version(self) -> np.ndarray:
        """int32 [L]."""
        if len({version for version, _ in self.versions}) == 1:  # as nearly always, and cheaper by far
            return np.full(self.length, self.versions[0][0], np.int32)
        return np.repeat(*np.array(self.versions or [(0, 0)], np.int32).T)

    def recent(self, count: int) -> np.ndarray:
        """The last `count` tokens, or all there are."""
        taken, pieces = 0, []
        for piece in reversed(self.tokens):
            if taken >= count:
                break
            pieces.append(piece)
            taken += len(piece)
        return np.concatenate(pieces[::-1])[-count:] if pieces else np.zeros(0, np.int32)

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens."""
        version, count = self.versions[-1]
        self.versions[-1] = (version, count - (self.length - length))  # what is cut off came with the last block
        self.tokens = [self.token_ids()[:length]]
        self.logprobs = [_joined(self.logprobs, np.float32)[:length]]
        self.length = length

    def completion(self, reason: FinishReason, text: str) -> Completion:
        return Completion(
            uid=self.request.uid, sample=self.sample, token_ids=self.token_ids(),
            logprobs=_joined(self.logprobs, np.float32), policy_version=self.policy_version(), finish_reason=reason, text=text,
        )  # fmt: skip

    def parked(self, sampling: Sampling, state: Mapping[str, Tensor] | None) -> ParkedSequence:
        """The sequence as it can be sent; `state` as its slot was exported."""
        arrays = None if state is None else {name: _array(tensor) for name, tensor in state.items()}
        low = frozenset(name for name, tensor in (state or {}).items() if tensor.dtype == torch.bfloat16)
        return ParkedSequence(
            self.request, self.sample, sampling, self.token_ids(), _joined(self.logprobs, np.float32),
            self.policy_version(), self.spent(), arrays, low,
        )  # fmt: skip

    @classmethod
    def resumed(cls, parked: ParkedSequence, prompt: np.ndarray) -> LiveSequence:
        sequence = cls(parked.request, parked.sample, prompt, seconds=parked.seconds)
        if len(parked.token_ids):
            sequence.tokens, sequence.logprobs = [parked.token_ids], [parked.logprobs]
            sequence.versions = [(int(version), 1) for version in parked.policy_version]
            sequence.length = len(parked.token_ids)
        return sequence


def exported_state(parked: ParkedSequence) -> dict[str, Tensor] | None:
    """The slot's state as tensors that may be written; None when it has to be made from the tokens."""
    if parked.state is None:
        return None
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in parked.state.items()}
    return {name: t.view(torch.bfloat16) if name in parked.bfloat16 else t for name, t in tensors.items()}


def _array(tensor: Tensor) -> np.ndarray:
    host = tensor.cpu()
    array: np.ndarray = (host.view(torch.int16) if host.dtype == torch.bfloat16 else host).numpy()
    return array


def _joined(pieces: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(pieces, dtype=dtype) if pieces else np.zeros(0, dtype)
