import numpy as np
import pytest
import torch
from builders import tiny_config

from mimosa.policy.blueprint import Blueprint
from mimosa.policy.tokenizer import chars_tokenizer
from mimosa.records import Request, TrialLoad
from mimosa.rollout.bandwidth import copy_bandwidth
from mimosa.rollout.engine import Engine
from mimosa.rollout.traffic import token_bytes, weight_bytes
from mimosa.rollout.trial import idle_share, run_trial

TOKENIZER = chars_tokenizer("0123456789+=")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As a rollout actor has: threads that wait for each other on a busy machine would make a round as long as it likes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    config = tiny_config(vocab_size=len(TOKENIZER), eos_token_id=1, d_model=32, headdim=16, n_layer=1)
    return Blueprint(config, TOKENIZER, "auto").filled_model("cpu", "", 0)


def load(lengths: list[int], samples: int = 2) -> TrialLoad:
    ids = np.arange(3, 8, dtype=np.int32)
    return TrialLoad(tuple(Request(f"p{i}", ids, samples) for i in range(len(lengths) // samples)), tuple(lengths))


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("slots", [3, 8])
def test_every_sequence_takes_its_given_length_and_slots_are_counted(model, block, slots):
    lengths = [1, 9, 2, 5, 7, 30]
    trial = run_trial(Engine(model, TOKENIZER, slots=slots, block=block), load(lengths), "recurrent", 0.4)
    assert trial.rounds >= 1
    assert trial.tokens == trial.rounds * sum(lengths)
    assert trial.slots_in_use == pytest.approx(trial.tokens / (trial.steps * slots))
    assert trial.steps >= 30 * trial.rounds  # the longest sequence alone
    assert 0 < trial.decode_seconds + trial.prefill_seconds < trial.seconds
    assert 0 < trial.host_gap < 1
    assert trial.weight_bytes == sum(p.numel() * 4 for p in model.parameters())
    assert trial.token_bytes == 2 * trial.bytes_per_slot


def test_a_round_that_takes_too_long_is_broken_off_and_counts_as_far_as_it_came(model):
    engine = Engine(model, TOKENIZER, slots=2, block=1)
    trial = run_trial(engine, load([100_000, 100_000]), "recurrent", 0.1)
    assert trial.rounds == 0 and 0 < trial.tokens < 100_000
    assert trial.seconds < 2
    assert engine.unfinished == 0


@pytest.mark.parametrize(
    ("spans", "share"),
    [([], 1.0), ([(0, 1)], 0.0), ([(0, 1), (3, 4)], 0.5), ([(3, 4), (0, 2), (1, 1.5)], 0.25), ([(0, 9), (1, 2)], 0.0)],
    ids=["nothing", "one", "gap", "overlap", "inside"],
)
def test_idle_is_what_no_span_covers(spans, share):
    assert idle_share(spans) == pytest.approx(share)


def test_state_bytes_of_replay_by_hand():
    """H = 2, P = 16, N = 8, R = 2, C = 32, one layer, bf16: counted entry by entry."""
    config = tiny_config(d_model=16, expand=2, headdim=16, d_state=8, n_layer=1, ngroups=1)
    assert (config.n_heads, config.tile_tokens, config.n_angles) == (2, 32, 2)
    read, flush = 2 * (2 * 16 * 8), (4 + 4 + 2) * (2 * 16 * 8) / 32
    ring = 16 * (2 * (2 * 8 + 2 + 2 * 16) + 3 * 4 * 2)
    assert token_bytes(config, "replay", 0, 2) == pytest.approx(read + flush + ring)


def test_an_embedding_that_is_no_head_is_not_read_whole(model):
    config = tiny_config(vocab_size=64, tie_word_embeddings=False)
    untied = Blueprint(config, TOKENIZER, "auto").filled_model("cpu", "", 0)
    whole = sum(p.numel() * 4 for p in untied.parameters())
    assert whole - weight_bytes(untied) == 4 * untied.backbone.embedding.weight.numel()


def test_a_copy_is_as_fast_as_memory_can_be():
    threads = torch.get_num_threads()
    assert 1e8 < copy_bandwidth("cpu") < 2e12
    assert torch.get_num_threads() == threads
