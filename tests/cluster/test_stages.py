"""How completions are handed to verifiers."""

import numpy as np
import pytest

from mimosa.cluster.stages import judging_bound, whole_groups
from mimosa.configs.schema import Config, EvalConfig, TrainConfig, VerifierConfig
from mimosa.records import Completion


def completions(*sizes):
    empty = np.zeros(0, np.int32)
    return [
        Completion(f"p{p}", i, empty, empty, empty, "stop", "") for p, size in enumerate(sizes) for i in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "batch", "wanted"),
    [
        ((4, 4, 4), 5, [4, 4, 4]),
        ((4, 4, 4), 8, [8, 4]),
        ((4, 4, 4), 100, [12]),
        ((7, 1, 1, 7), 3, [7, 2, 7]),
        ((1,) * 5, 2, [2, 2, 1]),
        ((), 2, []),
    ],
)
def test_batches_hold_whole_groups(sizes, batch, wanted):
    given = completions(*sizes)
    batches = list(whole_groups(given, batch))
    assert [len(one) for one in batches] == wanted
    assert [c for one in batches for c in one] == given
    uids = [{c.uid for c in one} for one in batches]
    assert sum(map(len, uids)) == len(set().union(*uids))


def test_the_bound_covers_a_group_that_is_larger_than_a_batch():
    small = Config(verifier=VerifierConfig(batch=4, timeout=10.0, retries=1), train=TrainConfig(group=4))
    large = Config(verifier=VerifierConfig(batch=4, timeout=10.0, retries=1), train=TrainConfig(group=64))
    evaluated = Config(verifier=VerifierConfig(batch=4, timeout=10.0, retries=1), eval=EvalConfig(samples=64))
    assert judging_bound(small) >= 60 + 2 * 4 * 10 * 3
    assert judging_bound(large) == judging_bound(evaluated) >= 60 + 2 * 64 * 10 * 3
