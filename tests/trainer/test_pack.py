import numpy as np
import pytest
from builders import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from mimosa.records import Sample
from mimosa.trainer.pack import pack_updates


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 40), updates=st.integers(1, 5), ranks=st.integers(1, 3), budget=st.integers(4, 90))
def test_every_sample_once_and_within_the_budget(count, updates, ranks, budget):
    rows = samples(count, seed=count)
    packed = pack_updates(rows, updates, ranks, budget, seed=1)
    names = [uid for update in packed for rank in update.ranks for batch in rank for uid in batch.uids]
    assert sorted(names) == sorted(f"{s.uid}/0" for s in rows)
    assert sum(u.tokens for u in packed) == sum(len(s.token_ids) - 6 for s in rows)
    for update in packed:
        assert len({len(rank) for rank in update.ranks}) == 1
        for batch in (b for rank in update.ranks for b in rank):
            assert len(batch.input_ids) <= max(budget, max(len(s.token_ids) - 1 for s in rows))
        assert sum(b.mask.sum() for rank in update.ranks for b in rank) == update.tokens


def test_a_row_predicts_the_next_token_of_its_own_sequence():
    rows = [
        Sample("a", 0, np.array([1, 2, 3, 4], np.int32), 2, np.array([-0.1, -0.2], np.float32), 0.5),
        Sample("b", 1, np.array([5, 6, 7], np.int32), 1, np.array([-0.3, -0.4], np.float32), -2.0),
    ]
    (update,) = pack_updates(rows, 1, 1, 64, seed=0)
    (batch,) = update.ranks[0]
    assert batch.uids == ("a/0", "b/1")
    assert batch.input_ids.tolist() == [1, 2, 3, 5, 6]
    assert batch.targets.tolist() == [2, 3, 4, 6, 7]
    assert batch.mask.tolist() == [0, 1, 1, 1, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    np.testing.assert_allclose(batch.logprobs, [0, -0.1, -0.2, -0.3, -0.4])
    np.testing.assert_allclose(batch.advantages, [0.5, 0.5, 0.5, -2, -2])


def test_ranks_get_like_loads():
    (update,) = pack_updates(samples(200), 1, 2, 100, seed=0)
    loads = [sum(len(b.input_ids) for b in rank if b.uids) for rank in update.ranks]
    assert abs(loads[0] - loads[1]) <= 20


def test_an_empty_completion_is_refused():
    row = Sample("a", 3, np.array([1, 2], np.int32), 2, np.zeros(0, np.float32), 1.0)
    with pytest.raises(ValueError, match="sample a/3: 2 tokens of which 2 are its prompt"):
        pack_updates([row], 1, 1, 8, 0)
