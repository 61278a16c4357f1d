"""What bench rollout compares does the same work; the times themselves are no matter of tests."""

import numpy as np
import pytest
import torch

from mimosa.bench.rollout import (
    LENGTH,
    decode_rates,
    engine_tokens,
    random_policy,
    requests,
    run,
    small_shapes,
    transformers_tokens,
)
from mimosa.policy.tokenizer import bytes_tokenizer
from mimosa.rollout.engine import Engine


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return random_policy(small_shapes()["quickstart"], "cpu")


@pytest.mark.parametrize("batch", [1, 3])
def test_engine_and_transformers_take_the_same_tokens(model, batch):
    asked = requests(model.config, 3, 8)
    ours = engine_tokens(Engine(model, bytes_tokenizer(), slots=2), asked)
    theirs = transformers_tokens(model, asked, batch)
    assert ours.shape == (3, LENGTH)
    np.testing.assert_array_equal(ours, theirs)
    assert len({tuple(row) for row in ours.tolist()}) == 3


def test_decode_is_measured_while_all_slots_are_in_use(model):
    engine = Engine(model, bytes_tokenizer(), slots=6, block=2)
    rates = decode_rates(engine, requests(model.config, 2, 5, 3), 20, 60.0)
    assert len(rates) == 20 // 2 - 2  # blocks but the one with which slots fill and the one that captures a graph
    assert min(rates) > 0 and engine.unfinished == 0


@pytest.mark.parametrize(
    ("sections", "device", "said"),
    [(["decod"], "cpu", "got decod, wanted some of baselines, sampling"), ([], "tpu", "--device tpu")],
)
def test_a_mistake_is_named(sections, device, said):
    with pytest.raises(ValueError, match=said):
        run(sections, device, save=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_cuda_is_refused():
    with pytest.raises(ValueError, match="cuda where there is"):
        run([], "cuda", save=False)
