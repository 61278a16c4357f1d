"""From requests and parked sequences to arrivals at the engine's queue, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..records import ParkedSequence, Request, Sampling
from .admission import Arrival
from .sequence import LiveSequence, exported_state


class Intake:
    """What an engine takes in: prompts of up to `max_tokens` tokens (0: of any length) of a vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab: int, max_tokens: int):
        self.tokenizer, self.vocab, self.max_tokens = tokenizer, vocab, max_tokens

    def fresh(self, request: Request, samples: Iterable[int]) -> Arrival:
        """Samples of a request that have not begun."""
        prompt = self.prompt(request)
        return Arrival([LiveSequence(request, sample, prompt) for sample in samples], prompt[:-1])

    def resumed(self, parked: Sequence[ParkedSequence], sampling: Sampling, version: int | None) -> list[Arrival]:
        """Parked sequences, those that had not begun together by prompt, in the order of the first of them.

        version: the one whose states are gone on with, others are made anew from the tokens; None: all are gone on with.
        Raises ValueError naming a sequence that was sampled otherwise.
        """
        arrivals: dict[tuple[str, int], Arrival] = {}
        for one in parked:
            if one.sampling != sampling:
                raise ValueError(
                    f"parked {one.request.uid}/{one.sample}: got a sequence of {one.sampling}, wanted {sampling}"
                )
            sequence = LiveSequence.resumed(one, self.prompt(one.request))
            name = (one.request.uid, one.sample if sequence.length else -1)
            if name in arrivals:
                arrivals[name].sequences.append(sequence)
                continue
            stale = version is not None and sequence.length > 0 and int(one.policy_version[-1]) != version
            state = None if stale or not sequence.length else exported_state(one)
            arrivals[name] = Arrival([sequence], sequence.context(), state)
        return list(arrivals.values())

    def prompt(self, request: Request) -> np.ndarray:
        """The tokens that the policy reads: those of the request, or BOS when it has none."""
        ids = request.token_ids
        if not len(ids):
            if self.tokenizer.bos_token_id is None:
                raise ValueError(
                    f"request {request.uid}: got an empty prompt, wanted at least one token (the tokenizer has no BOS token)"
                )
            return np.array([self.tokenizer.bos_token_id], np.int32)
        if self.max_tokens and len(ids) > self.max_tokens:
            raise ValueError(f"request {request.uid}: got {len(ids)} tokens, wanted at most {self.max_tokens}")
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab:
            odd = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise ValueError(f"request {request.uid}: got token id {odd}, wanted 0..{self.vocab - 1}")
        return ids.astype(np.int32)


def check_names(arrivals: Sequence[Arrival], taken: Iterable[LiveSequence]) -> None:
    """Raise ValueError naming a sample that would be in the engine twice."""
    seen = {(s.request.uid, s.sample) for s in taken}
    for arrival in arrivals:
        for sequence in arrival.sequences:
            name = (sequence.request.uid, sequence.sample)
            if name in seen:
                raise ValueError(f"request {name[0]}: got sample {name[1]} twice, wanted every sample once")
            seen.add(name)
