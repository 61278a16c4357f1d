"""The rollout engine: continuous batching of Mamba-3 decoding over state slots.

A step admits what fits, prefills at most one piece of prompts and decodes one block of tokens; a slot is refilled in the step after
its sequence ends. The parts are in admission.py, prefill.py, decode_loop.py and sampler.py. Between two steps weights may be swapped
(swap.py), and sequences be parked and resumed, here or elsewhere.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ..policy.mamba3 import Mamba3ForCausalLM
from ..policy.weights import load_version
from ..records import Completion, FinishReason, ParkedSequence, PolicyVersion, Request, RolloutStats, Sampling
from .admission import Admission
from .decode_loop import BlockResult, DecodeLoop
from .intake import Intake, check_names
from .prefill import Prefill
from .sampler import Sampler
from .sequence import LiveSequence
from .slots import SlotPool, make_slots
from .stop_texts import StopTexts
from .swap import ON_SWAP, StateSwap, spread_sample

BLOCK = {"cpu": 6, "cuda": 32}  # tokens; a row that ends within a block costs until its end
COMPACT_BELOW = 0.75  # share of live rows under which a run of slots is packed


class Engine:
    """Decodes requests with one policy on one device. Not for several threads at once.

    slots          sequences decoded at once; 0: as many as `memory_share` of the free memory holds
    block          tokens of a sequence between two looks of the host; 0: 32 on a GPU, 6 on a CPU
    prefill_piece  prompt tokens prefilled at most between two blocks, rounded up to whole chunks
    mode           of the slots: auto, recurrent or replay (Mamba3ForCausalLM.slots)
    graphs         capture blocks in CUDA graphs; None: on a GPU
    on_swap        what becomes of states under new weights: keep or recompute; the two are compared on swap_sample sequences
    max_prompt_tokens  a longer prompt is refused; 0: none is
    Raises ValueError naming the argument for one that cannot be.
    """

    def __init__(
        self, model: Mamba3ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, slots: int = 0, block: int = 0,
        prefill_piece: int = 2048, mode: str = "auto", graphs: bool | None = None, memory_share: float = 0.8,
        on_swap: str = "keep", swap_sample: int = 4, max_prompt_tokens: int = 0,
    ):  # fmt: skip
        if on_swap not in ON_SWAP:
            raise ValueError(f"on_swap: got {on_swap!r}, wanted {' or '.join(ON_SWAP)}")
        for name, value, least in (("block", block, 0), ("prefill_piece", prefill_piece, 1), ("slots", slots, 0)):
            if value < least:
                raise ValueError(f"{name}: got {value}, wanted at least {least}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.on_swap, self.swap_sample = on_swap, swap_sample
        device, vocab = model.device, model.config.vocab_size
        self.intake = Intake(tokenizer, vocab, max_prompt_tokens)
        self.slots = make_slots(lambda capacity: model.slots(capacity, mode), slots, device, memory_share)
        self.pool = SlotPool(self.slots.capacity)
        self.prefill = Prefill(self.slots, device, prefill_piece, model.config.tile_tokens)
        self.admission = Admission(self.slots, self.pool, self.prefill)
        graphs = device.type == "cuda" if graphs is None else graphs
        self.loop = DecodeLoop(self.slots, device, block or BLOCK[device.type], vocab, graphs)
        self.swap = StateSwap(self.slots, self.prefill, model.head(), device)
        self.live: dict[int, LiveSequence] = {}  # by slot
        self.version = 0
        self.open: Counter[str] = Counter()  # unfinished samples by uid
        self._counts: defaultdict[str, float] = defaultdict(int)
        self._use(Sampling(max_tokens=1))

    @property
    def unfinished(self) -> int:
        """How many samples are not completed yet."""
        return len(self.live) + len(self.admission)

    @property
    def busy(self) -> bool:
        """Whether there is a sample to go on with."""
        return bool(self.live or self.admission)

    @property
    def stats(self) -> RolloutStats:
        """What has been done since the engine was made."""
        return RolloutStats(**self._counts)  # type: ignore[arg-type]

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, parked: Sequence[ParkedSequence] = ()
    ) -> list[Completion]:
        """Complete every request, and before them parked samples; completions come in the order of both and of sample numbers.

        Raises what `submit` does, and RuntimeError while the engine has other requests.
        """
        if self.busy:
            raise RuntimeError("generate: the engine is still busy with other requests")
        requests = list(requests)
        finished: list[Completion] = []
        try:
            self.submit(requests, sampling, parked)
            while self.busy:
                finished += self.step()
        finally:
            self.reset()
        names = dict.fromkeys([*(p.request.uid for p in parked), *(r.uid for r in requests)])
        order = {uid: place for place, uid in enumerate(names)}
        return sorted(finished, key=lambda c: (order[c.uid], c.sample))

    def submit(self, requests: Sequence[Request], sampling: Sampling, parked: Sequence[ParkedSequence] = ()) -> None:
        """Queue requests behind what is there, and parked samples before it. A prompt of 0 tokens is begun with BOS.

        Raises ValueError naming the request for an empty prompt where the tokenizer has no BOS, a prompt longer than
        max_prompt_tokens, a token id outside the vocabulary or a sample that is there already; and for another sampling than that
        of the samples under way.
        """
        if self.busy and sampling != self.sampling:
            raise ValueError(f"sampling: got {sampling} while samples of {self.sampling} are under way")
        again = self.intake.resumed(parked, sampling, self.version if self.on_swap == "recompute" else None)
        fresh = [self.intake.fresh(request, range(request.samples)) for request in requests]
        check_names([*again, *fresh], [*self.live.values(), *self.admission.sequences()])
        self._use(sampling)
        self.admission.waiting.extendleft(reversed(again))
        self.admission.waiting.extend(arrival for arrival in fresh if arrival.sequences)
        for arrival in (*again, *fresh):
            self.open.update(sequence.request.uid for sequence in arrival.sequences)
        self._count(prompt_tokens=sum(len(request.token_ids) for request in requests), resumed=len(parked))

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Admit, prefill at most one piece, decode one block -> the completions that ended with it."""
        started, before = time.perf_counter(), self.prefill.tokens
        self.live |= {sequence.slot: sequence for sequence in self.admission.admit()}
        self.live |= {sequence.slot: sequence for sequence in self.admission.run_piece()}
        prefilled = time.perf_counter()
        self._count(prefilled_tokens=self.prefill.tokens - before, prefill_seconds=prefilled - started)
        if not self.live:
            return []
        rows, sequences = self._rows()
        result = self.loop.run(rows, self.sampler)
        finished = self._collect(sequences, result)
        self._count(decode_seconds=time.perf_counter() - prefilled)
        return finished

    def update_weights(self, version: PolicyVersion) -> None:
        """Take new weights in place, between two blocks; no sample is interrupted, and tokens from now on carry the new number."""
        started = time.perf_counter()
        load_version(self.model, version)
        self.version = version.number
        with torch.inference_mode():
            self._swap_states()
        self._count(swaps=1, swap_seconds=time.perf_counter() - started)

    def park(self, uids: Collection[str] | None = None) -> list[ParkedSequence]:
        """Take the unfinished samples of these requests out, None: all -> everything that is needed to go on with them.

        Their slots are free at once. To abort, forget what is returned.
        """
        parked = [s.parked(self.sampling, self.slots.export(s.slot)) for s in self.live.values() if _named(s, uids)]
        for arrival, sequence in self.admission.entries():
            if _named(sequence, uids):
                parked.append(sequence.parked(self.sampling, arrival.state if sequence.length else None))
        for sequence in [s for s in self.live.values() if _named(s, uids)]:
            self._free(sequence)
        self.admission.remove({s for s in self.admission.sequences() if _named(s, uids)})
        self._close(p.request.uid for p in parked)
        self._count(parked=len(parked))
        return parked

    def reset(self) -> None:
        """Drop all samples under way."""
        self.live.clear()
        self.open.clear()
        self.admission.clear()
        self.pool.reset()

    def _close(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self.open[uid] -= 1
            if not self.open[uid]:
                del self.open[uid]

    def _count(self, **added: float) -> None:
        for name, value in added.items():
            self._counts[name] += value

    def _use(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.sampler = Sampler(self.model.head(), self.model.config.vocab_size, sampling, self.model.device)
        self.stop_texts = StopTexts(self.tokenizer, sampling.stop)
        self.loop.set_stops(sampling.stop_token_ids)

    def _rows(self) -> tuple[np.ndarray, list[LiveSequence | None]]:
        """Input of a block and whose rows they are. Where it pays, rows are a run of slots with free ones between the live."""
        numbers = sorted(self.live)
        if self.slots.prefers_runs:
            if not self.admission and len(numbers) < COMPACT_BELOW * (numbers[-1] + 1):
                self._compact()
                numbers = sorted(self.live)
            if len(numbers) + self.pool.free_below(numbers[-1]) == numbers[-1] + 1:
                numbers = list(range(numbers[-1] + 1))
        sequences, most = [self.live.get(slot) for slot in numbers], self.sampling.max_tokens
        rows = [
            (s.next_input, s.slot, s.length, most - s.length, s.key) if s else (0, slot, 0, 0, 0)
            for slot, s in zip(numbers, sequences, strict=True)
        ]
        return np.ascontiguousarray(np.array(rows, np.int64).T), sequences

    def _compact(self) -> None:
        """Move live states from the highest slots into the lowest free ones."""
        for slot in sorted(self.live, reverse=True):
            lowest = self.pool.lowest()
            if lowest is None or lowest > slot:
                return
            self.slots.copy(slot, [lowest])
            sequence = self.live.pop(slot)
            sequence.slot = self.pool.take()
            self.live[sequence.slot] = sequence
            self.pool.release(slot)

    def _collect(self, sequences: Sequence[LiveSequence | None], result: BlockResult) -> list[Completion]:
        """Append a block's tokens to their sequences; those that ended leave their slots."""
        ended: list[tuple[LiveSequence, FinishReason]] = []
        kept = 0
        for row, sequence in enumerate(sequences):
            if sequence is None:
                continue
            before, count = sequence.length, int(result.counts[row])
            sequence.append(result.tokens[row, :count], result.logprobs[row, :count], self.version)
            reason = self._ended(sequence, count)
            kept += sequence.length - before
            if reason is not None:
                ended.append((sequence, reason))
                self._free(sequence)
        self._close(sequence.request.uid for sequence, _ in ended)
        rows = result.steps * len(sequences)
        self._count(
            blocks=1, completion_tokens=kept, decoded_rows=rows, idle_rows=rows - kept, completions=len(ended),
            slot_steps=result.steps * self.slots.capacity,
        )  # fmt: skip
        tokens = [s.token_ids().tolist() for s, _ in ended]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True) if ended else []
        return [s.completion(why, self.stop_texts.before(text)) for (s, why), text in zip(ended, texts, strict=True)]

    def _ended(self, sequence: LiveSequence, fresh: int) -> FinishReason | None:
        """Why a sequence ends with its last `fresh` tokens; what comes after a stop text is cut off."""
        end = self.stop_texts.end(sequence, fresh)
        if end is not None:
            sequence.cut(end)
            return "stop"
        if sequence.next_input in self.sampling.stop_token_ids:
            return "stop"
        if sequence.length >= self.sampling.max_tokens:
            return "length"
        late = self.sampling.deadline and sequence.spent() > self.sampling.deadline
        return "deadline" if late else None

    def _free(self, sequence: LiveSequence) -> None:
        del self.live[sequence.slot]
        self.pool.release(sequence.slot)
        sequence.slot = -1

    def _swap_states(self) -> None:
        """What `on_swap` says, with the weights that are in place now."""
        sequences, before = list(self.live.values()), self.prefill.tokens
        compared = spread_sample(sequences, self.swap_sample)
        if compared:
            kl = self.swap.divergence(compared, self.sampling.temperature or 1.0)
            self._count(swap_kl=kl, swap_sequences=len(compared))
        if self.on_swap == "recompute":
            self.swap.recompute(sequences)
        self.admission.new_weights(self.on_swap == "keep")
        self._count(prefilled_tokens=self.prefill.tokens - before)


def _named(sequence: LiveSequence, uids: Collection[str] | None) -> bool:
    return uids is None or sequence.request.uid in uids
