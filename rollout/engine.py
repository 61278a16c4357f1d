"""The rollout engine: continuous batching of Mamba-3 decoding over state slots.

A prompt is prefilled once and its state copied to all of its samples; a slot is refilled in the step after its sequence ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ..kernels.sampling import noise_tensor, sample_tokens, sequence_key
from ..policy.mamba3 import Mamba3ForCausalLM
from ..policy.weights import load_version
from ..records import Completion, FinishReason, PolicyVersion, Request, Sampling
from .slots import LiveSequence, SlotPool, prefill_batch

PREFILL_TOKENS = 8192  # prompt tokens packed into one prefill
NOISE_ELEMENTS = 1 << 22  # sampling noise held ahead of its use


class Engine:
    """Decodes requests with one policy on one device."""

    def __init__(
        self, model: Mamba3ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, slots: int, noise_block: int = 16
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pool = SlotPool(model, slots)
        self.noise_block = noise_block
        self.version = 0
        self.waiting: deque[tuple[Request, range]] = deque()
        self.sampling = Sampling(max_tokens=1)
        self._noise: torch.Tensor | None = None  # [steps ahead, live rows, V]

    def update_weights(self, version: PolicyVersion) -> None:
        """Take new weights in place; tokens drawn from now on carry the new number."""
        load_version(self.model, version)
        self.version = version.number

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> list[Completion]:
        """Complete every request; completions come in the order of requests and sample numbers.

        Raises ValueError naming the request for an empty prompt or a token id outside the vocabulary.
        """
        requests = list(requests)
        if self.waiting or self.pool.live:
            raise RuntimeError("generate: the engine is still busy with other requests")
        for request in requests:
            self._check(request)
        self.sampling = sampling
        self.waiting.extend((r, range(r.samples)) for r in requests)
        finished: list[tuple[LiveSequence, FinishReason]] = []
        try:
            while self.waiting or self.pool.live:
                finished += self.step()
        finally:
            self._reset()
        order = {r.uid: i for i, r in enumerate(requests)}
        finished.sort(key=lambda item: (order[item[0].request.uid], item[0].sample))
        return self._completions(finished)

    @torch.inference_mode()
    def step(self) -> list[tuple[LiveSequence, FinishReason]]:
        """One token for every live sequence; returns those that ended with it."""
        self._schedule()
        tokens, logprobs = self._run()
        return self._postprocess(tokens, logprobs)

    def _schedule(self) -> None:
        """Fill free slots from the queue, splitting a request's samples over admissions where they do not fit."""
        admitted: list[tuple[Request, range]] = []
        free, tokens = self.pool.free, 0
        while self.waiting and free > 0 and tokens < PREFILL_TOKENS:
            request, samples = self.waiting.popleft()
            taken, rest = samples[:free], samples[free:]
            admitted.append((request, taken))
            free -= len(taken)
            tokens += len(request.token_ids)
            if rest:
                self.waiting.appendleft((request, rest))
        if admitted:
            self._prefill(admitted)
            self._noise = None

    def _prefill(self, admitted: list[tuple[Request, range]]) -> None:
        ids, cu_seqlens, rows = prefill_batch([request for request, _ in admitted])
        state = None
        if len(ids):
            device = self.model.device
            packed = torch.from_numpy(ids).to(device).unsqueeze(0)
            bounds = torch.from_numpy(cu_seqlens).to(device)
            _, state = self.model.backbone(
                packed, None, cu_seqlens=bounds, return_state=True, backend=self.model.kernels
            )
        sequences, source = [], []
        for (request, samples), row in zip(admitted, rows, strict=True):
            last = int(request.token_ids[-1])
            sequences += [LiveSequence(request, s, sequence_key(request.uid, s), last) for s in samples]
            source += [row] * len(samples)
        self.pool.admit(sequences, state, source)

    def _run(self) -> tuple[np.ndarray, np.ndarray]:
        inputs = torch.tensor([s.next_input for s in self.pool.live], device=self.model.device)
        logits, _ = self.model.step(inputs, self.pool.view(), inplace=True)
        noise = self._next_noise() if self.sampling.temperature > 0 else None
        tokens, logprobs = sample_tokens(logits, noise, self.sampling.temperature)
        return tokens.cpu().numpy(), logprobs.float().cpu().numpy()

    def _next_noise(self) -> torch.Tensor:
        """Noise of this step for the live rows, made for `noise_block` steps at once: the generator costs per call, not per row."""
        if self._noise is None or not len(self._noise):
            live, vocab = self.pool.live, self.model.config.vocab_size
            ahead = max(1, min(self.noise_block, NOISE_ELEMENTS // (len(live) * vocab)))
            keys = np.tile(np.array([s.key for s in live], dtype=np.uint64), ahead)
            starts = np.array([len(s.tokens) for s in live])
            positions = (starts[None, :] + np.arange(ahead)[:, None]).ravel()
            noise = noise_tensor(self.sampling.seed, keys, positions, vocab, self.model.device)
            self._noise = noise.view(ahead, len(live), vocab)
        noise, self._noise = self._noise[0], self._noise[1:]
        return noise

    def _postprocess(self, tokens: np.ndarray, logprobs: np.ndarray) -> list[tuple[LiveSequence, FinishReason]]:
        ended: list[tuple[LiveSequence, FinishReason]] = []
        rows: list[int] = []
        stops, limit = self.sampling.stop_token_ids, self.sampling.max_tokens
        for row, (sequence, token, logprob) in enumerate(
            zip(self.pool.live, tokens.tolist(), logprobs.tolist(), strict=True)
        ):
            sequence.tokens.append(token)
            sequence.logprobs.append(logprob)
            sequence.versions.append(self.version)
            sequence.next_input = token
            if token in stops or len(sequence.tokens) >= limit:
                ended.append((sequence, "stop" if token in stops else "length"))
                rows.append(row)
        order = self.pool.release(rows)
        if rows and self._noise is not None and len(self._noise):
            self._noise = self._noise[:, torch.tensor(order, dtype=torch.long, device=self._noise.device)]
        return ended

    def _completions(self, finished: list[tuple[LiveSequence, FinishReason]]) -> list[Completion]:
        texts = self.tokenizer.batch_decode([s.tokens for s, _ in finished], skip_special_tokens=True)
        return [
            Completion(
                uid=s.request.uid, sample=s.sample, token_ids=np.array(s.tokens, np.int32),
                logprobs=np.array(s.logprobs, np.float32), policy_version=np.array(s.versions, np.int32),
                finish_reason=reason, text=text,
            )
            for (s, reason), text in zip(finished, texts, strict=True)
        ]  # fmt: skip

    def _check(self, request: Request) -> None:
        ids = request.token_ids
        if len(ids) == 0:
            raise ValueError(f"request {request.uid}: got an empty prompt, wanted at least one token")
        if int(ids.min()) < 0 or int(ids.max()) >= self.model.config.vocab_size:
            raise ValueError(
                f"request {request.uid}: got token id {int(ids.max())}, wanted 0..{self.model.config.vocab_size - 1}"
            )

    def _reset(self) -> None:
        self.waiting.clear()
        self.pool.live.clear()
        self._noise = None
