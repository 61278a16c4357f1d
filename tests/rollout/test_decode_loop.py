"""A block against single steps of the policy; dead rows, early ends, buckets."""

import numpy as np
import pytest
import torch
from engines import EOS, SAMPLING, VOCAB, policy, prompt

from mimosa.policy.slots import ReferenceSlots
from mimosa.rollout.decode_loop import KEY, LEFT, POSITION, SLOT, TOKEN, DecodeLoop, buckets
from mimosa.rollout.sampler import Sampler

CPU = torch.device("cpu")


class NoRuns(ReferenceSlots):
    """Slots that are as cheap in any order: dead rows are nobody's, as on a GPU."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prefers_runs = False


def prepared(kind: type[ReferenceSlots], capacity: int = 5) -> tuple[ReferenceSlots, Sampler]:
    model = policy()
    slots = kind(model.backbone, model.empty_state(capacity + 1), "auto")
    for slot in range(capacity):
        ids = torch.from_numpy(prompt(3 + slot)).long()
        slots.prefill(ids, torch.tensor([0, len(ids)], dtype=torch.int32), [slot])
    return slots, Sampler(model.head(), VOCAB, SAMPLING, CPU)


def rows(slots: list[int], left: list[int]) -> np.ndarray:
    table = np.zeros((5, len(slots)), np.int64)
    table[TOKEN], table[SLOT], table[POSITION], table[LEFT], table[KEY] = 4, slots, 2, left, np.arange(len(slots)) + 11
    return table


@pytest.mark.parametrize("kind", [ReferenceSlots, NoRuns])
def test_a_block_is_its_steps(kind):
    """Blocks of 6 against 6 blocks of one step; rows end by length and by stop tokens."""
    slots, sampler = prepared(kind)
    loop = DecodeLoop(slots, CPU, 6, VOCAB, False)
    loop.set_stops([EOS, 7, 8, 9])
    together = loop.run(rows([0, 1, 2, 3, 4], [9, 2, 6, 1, 0]), sampler)
    assert together.counts[[3, 4]].tolist() == [1, 0]
    assert together.counts[1] <= 2
    slots, sampler = prepared(kind)
    single = DecodeLoop(slots, CPU, 1, VOCAB, False)
    single.set_stops([EOS, 7, 8, 9])
    table, seen = rows([0, 1, 2, 3, 4], [9, 2, 6, 1, 0]), [[] for _ in range(5)]
    for _ in range(6):
        step = single.run(table, sampler)
        for row in range(5):
            if step.counts[row]:
                token = int(step.tokens[row, 0])
                seen[row].append(token)
                table[TOKEN, row], table[POSITION, row] = token, table[POSITION, row] + 1
                table[LEFT, row] = 0 if token in (EOS, 7, 8, 9) else table[LEFT, row] - 1
    for row in range(5):
        assert together.tokens[row, : together.counts[row]].tolist() == seen[row]


def test_states_of_the_dead_and_of_the_unnamed_stay():
    slots, sampler = prepared(NoRuns)
    before = [slots.export(slot) for slot in range(5)]
    DecodeLoop(slots, CPU, 4, VOCAB, False).run(rows([4, 0, 2], [3, 0, 1]), sampler)
    for slot in (0, 1, 3):
        assert all(torch.equal(part, before[slot][name]) for name, part in slots.export(slot).items()), slot
    assert not torch.equal(slots.export(2)["0.h"], before[2]["0.h"])


def test_a_block_ends_when_nobody_is_alive():
    slots, sampler = prepared(ReferenceSlots)
    loop = DecodeLoop(slots, CPU, 50, VOCAB, False)
    assert loop.run(rows([0, 1], [3, 2]), sampler).steps == 3
    loop.set_stops(range(VOCAB))
    assert loop.run(rows([0, 1], [9, 9]), sampler).steps == 1
    loop.set_stops(())
    assert loop.run(rows([0, 1], [9, 9]), sampler).steps == 9


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 64, 100, 512])
def test_buckets_hold_every_number_of_rows_without_much_waste(capacity):
    sizes = buckets(capacity)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == capacity
    for rows_ in range(1, capacity + 1):
        assert min(s for s in sizes if s >= rows_) < 1.5 * rows_ + 1
