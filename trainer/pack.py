"""From samples to optimizer updates: sequences packed end to end into micro-batches under a token budget, balanced over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..records import MicroBatch, Sample, Update


def pack_updates(samples: Sequence[Sample], updates: int, ranks: int, token_budget: int, seed: int) -> list[Update]:
    """Split samples into at most `updates` disjoint parts, in an order drawn from `seed`, and pack each for `ranks` learners.

    Every rank of an update gets the same number of micro-batches, since each is a collective; an empty one fills up. A sequence
    longer than the budget gets a micro-batch of its own. Raises ValueError for a sample without a token to learn from.
    """
    for sample in samples:
        if len(sample.token_ids) <= sample.prompt_tokens or sample.prompt_tokens < 1:
            raise ValueError(
                f"sample {sample.uid}/{sample.sample}: {len(sample.token_ids)} tokens of which {sample.prompt_tokens} "
                "are its prompt, wanted at least one of each"
            )
    order = np.random.default_rng(seed).permutation(len(samples))
    parts = [part for part in np.array_split(order, updates) if len(part)]
    return [_pack_update([samples[i] for i in part], ranks, token_budget) for part in parts]


def _pack_update(samples: list[Sample], ranks: int, token_budget: int) -> Update:
    shards = _balance(samples, ranks)
    packed = [[_micro_batch(bin_) for bin_ in _first_fit(shard, token_budget)] for shard in shards]
    most = max(len(batches) for batches in packed)
    filler = _empty_batch(samples[0])
    padded = tuple(tuple(batches + [filler] * (most - len(batches))) for batches in packed)
    tokens = sum(len(s.token_ids) - s.prompt_tokens for s in samples)
    return Update(padded, tokens, len(samples))


def _balance(samples: list[Sample], ranks: int) -> list[list[Sample]]:
    """Longest first, each to the rank with the fewest tokens so far."""
    shards: list[list[Sample]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for sample in sorted(samples, key=lambda s: -len(s.token_ids)):
        rank = load.index(min(load))
        shards[rank].append(sample)
        load[rank] += len(sample.token_ids)
    return shards


def _first_fit(samples: list[Sample], token_budget: int) -> list[list[Sample]]:
    """First-fit decreasing; sequences come longest first, so neighbours in a bin are of like length."""
    bins: list[list[Sample]] = []
    room: list[int] = []
    for sample in samples:
        size = len(sample.token_ids) - 1  # the last token is predicted, never an input
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([sample])
            room.append(token_budget - size)
        else:
            bins[place].append(sample)
            room[place] -= size
    return bins


def _micro_batch(samples: list[Sample]) -> MicroBatch:
    lengths = [len(s.token_ids) - 1 for s in samples]
    mask = np.concatenate([np.arange(1, len(s.token_ids)) >= s.prompt_tokens for s in samples])
    logprobs = np.zeros(sum(lengths), np.float32)
    logprobs[mask] = np.concatenate([s.logprobs for s in samples])
    return MicroBatch(
        input_ids=np.concatenate([s.token_ids[:-1] for s in samples]),
        targets=np.concatenate([s.token_ids[1:] for s in samples]),
        mask=mask.astype(np.float32),
        logprobs=logprobs,
        advantages=np.repeat(np.array([s.advantage for s in samples], np.float32), lengths),
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        uids=tuple(f"{s.uid}/{s.sample}" for s in samples),
    )


def _empty_batch(like: Sample) -> MicroBatch:
    """One masked token: it takes part in the collectives and adds nothing."""
    token, zero = like.token_ids[:1], np.zeros(1, np.float32)
    return MicroBatch(token, token, zero, zero, zero, np.array([0, 1], np.int32), ())
