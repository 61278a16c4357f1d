import gc
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import (
    EOS,
    SAMPLING,
    TOKENIZER,
    VOCAB,
    by_name,
    engine,
    logprobs_of,
    policy,
    prompt,
    requests,
    same,
    weights,
)
from transformers import PreTrainedTokenizerFast

from mimosa.kernels.sampling import gumbel_noise, sequence_key
from mimosa.records import Request, Sampling
from mimosa.rollout.admission import Arrival
from mimosa.rollout.engine import Engine
from mimosa.rollout.sequence import LiveSequence

CHUNK = 32  # tokens of the tiny policy's tile


def test_tokens_are_those_of_a_sequence_alone():
    """Each completion against sampling by hand: whole-prefix forward passes and the noise of its own name."""
    model = policy()
    for c in engine(model=model).generate(requests(4, 2), SAMPLING):
        start = next(r for r in requests(4, 2) if r.uid == c.uid).token_ids.tolist()
        tokens: list[int] = []
        key = np.array([sequence_key(c.uid, c.sample)], np.uint64)
        for position, logprob in enumerate(c.logprobs):
            with torch.no_grad():
                logits = model(torch.tensor([start + tokens])).logits[0, -1]
            noise = gumbel_noise(3, key, np.array([position]), VOCAB)[0]
            token = int((logits + torch.from_numpy(noise)).argmax())
            assert logits.log_softmax(-1)[token].item() == pytest.approx(float(logprob), abs=1e-5)
            tokens.append(token)
        assert tokens == c.token_ids.tolist()
        assert (c.finish_reason == "stop") == (tokens[-1] == EOS)
        assert len(tokens) == 9 or tokens[-1] == EOS


@pytest.mark.parametrize(
    ("slots", "block", "piece"), [(1, 1, 32), (3, 5, 32), (64, 4, 2048), (64, 64, 64)], ids=lambda value: str(value)
)
def test_slots_blocks_pieces_and_order_change_nothing(slots, block, piece):
    wanted = [*requests(), Request("long@0", prompt(75), 5)]
    expected = by_name(engine(7).generate(wanted, SAMPLING))
    shuffled = [wanted[i] for i in np.random.default_rng(slots).permutation(len(wanted))]
    running = engine(slots, block=block, prefill_piece=piece)
    same(by_name(running.generate(shuffled, SAMPLING)), expected)


def test_one_slot_gives_the_same_bits_in_any_order():
    """Alone in every matrix product, a sequence has the same bits whatever came before it in its slot."""
    expected = by_name(engine(1).generate(requests(), SAMPLING))
    same(by_name(engine(1, block=7).generate(requests()[::-1], SAMPLING)), expected, exact=True)


def test_three_engines_give_what_one_gives():
    model, expected = policy(), by_name(engine(7).generate(requests(), SAMPLING))
    parts = [engine(2, model).generate(requests()[start::3], SAMPLING) for start in range(3)]
    same(by_name([c for part in parts for c in part]), expected)


def test_seed_sample_and_round_each_give_other_tokens():
    one = by_name(engine().generate(requests(1, 2), SAMPLING))
    other_seed = by_name(engine().generate(requests(1, 2), replace(SAMPLING, seed=4)))
    renamed = [Request("p0@1", requests(1, 2)[0].token_ids, 2)]
    other_round = by_name(engine().generate(renamed, SAMPLING))
    streams = [tuple(c.token_ids.tolist()) for found in (one, other_seed, other_round) for c in found.values()]
    assert len(set(streams)) == len(streams)


def test_greedy_takes_the_likeliest():
    model = policy()
    (found,) = engine(model=model).generate(requests(1, 1), Sampling(5, temperature=0.0))
    tokens = requests(1, 1)[0].token_ids.tolist()
    for token in found.token_ids.tolist():
        with torch.no_grad():
            assert int(model(torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)
    assert found.finish_reason == "length"


def test_logprobs_are_those_at_the_temperature():
    model = policy()
    (found,) = engine(model=model).generate(requests(1, 1), Sampling(4, temperature=2.5))
    np.testing.assert_allclose(found.logprobs, logprobs_of(model, requests(1, 1)[0].token_ids, found, 2.5), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_a_prompt_of_any_length_is_read_whole(length):
    """Around the chunk and the piece (of two chunks); 16 samples in 5 slots, so that the fork goes through the host too."""
    model, request = policy(), Request("p@0", prompt(length), 16)
    running = engine(5, model, prefill_piece=2 * CHUNK)
    for c in running.generate([request], Sampling(4, seed=1)):
        np.testing.assert_allclose(c.logprobs, logprobs_of(model, request.token_ids, c), atol=1e-5)
    assert running.stats.prompt_tokens == length
    assert running.stats.prefilled_tokens == length - 1  # once for all samples; the last token is a decode step's


def test_an_empty_prompt_begins_with_bos():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER.backend_tokenizer, bos_token="=", eos_token="<eos>", unk_token="<unk>"
    )
    bos = np.array([tokenizer.bos_token_id], np.int32)
    empty, spelt = (
        Engine(policy(), tokenizer, slots=3).generate([Request("a@0", ids, 4)], SAMPLING)
        for ids in (np.zeros(0, np.int32), bos)
    )
    same(by_name(empty), by_name(spelt))


def test_a_stop_at_the_first_token():
    """All but a few tokens stop: most completions have one token, and it is the stop token."""
    stops = tuple(range(2, VOCAB))
    found = engine(4).generate(requests(6, 4), Sampling(9, seed=1, stop_token_ids=stops))
    first = [c for c in found if len(c.token_ids) == 1]
    assert len(first) > 12
    for c in first:
        assert c.finish_reason == "stop"
        assert int(c.token_ids[0]) in stops
    assert all(int(token) not in stops for c in found for token in c.token_ids[:-1])


def test_decoding_waits_for_one_piece_at_most():
    """While a long prompt comes in, every step prefills at most a piece and gives the live ones a block."""
    running = engine(4, block=2, prefill_piece=CHUNK)
    running.submit([Request("live@0", prompt(3), 2)], Sampling(60, seed=1))
    running.step()
    running.submit([Request("long@0", prompt(4 * CHUNK), 2)], running.sampling)
    for _ in range(4):
        before = running.stats
        running.step()
        after = running.stats
        assert 0 < after.prefilled_tokens - before.prefilled_tokens <= CHUNK
        assert after.decoded_rows - before.decoded_rows >= 2 * 2
    assert {s.request.uid for s in running.live.values()} == {"live@0", "long@0"}


def test_a_slot_is_refilled_in_the_step_after_its_sequence_ended():
    running = engine(4, block=3)
    running.submit(requests(8, 4), replace(SAMPLING, max_tokens=20))
    waiting = True
    while waiting:
        running.step()
        ended = 4 - len(running.live)
        waiting = len(running.admission) > ended
        running.live |= {s.slot: s for s in running.admission.admit()}
        running.live |= {s.slot: s for s in running.admission.run_piece()}
        assert len(running.live) == 4 or not waiting


def test_new_weights_in_place_and_in_the_version():
    first, second = policy(0), policy(1)
    running = engine(model=first)
    addresses = [p.data_ptr() for p in first.parameters()]
    running.update_weights(weights(second, 5))
    assert [p.data_ptr() for p in first.parameters()] == addresses
    found = by_name(running.generate(requests(), SAMPLING))
    same(found, by_name(engine(model=second).generate(requests(), SAMPLING)))
    assert all((c.policy_version == 5).all() for c in found.values())


def test_a_deadline_ends_a_sequence_and_says_so():
    found = engine(3, block=2).generate(requests(4, 2), Sampling(40, seed=1, deadline=1e-9))
    assert [c.finish_reason for c in found] == ["deadline"] * 8
    assert all(len(c.token_ids) == 2 for c in found)  # the first block; nothing is dropped, those that waited neither


def state_tensors(running: Engine) -> list[tuple[int, int]]:
    return [(t.data_ptr(), t.numel()) for t in running.slots.tensors.values()]


def alive() -> int:
    """Sequences and arrivals that something still holds."""
    gc.collect()
    return sum(type(thing) in (LiveSequence, Arrival) for thing in gc.get_objects())


def many_short_sequences(count: int) -> None:
    """Through 16 slots: every sample once, all slots free again, the states where they were, nothing held on the host."""
    running = engine(16)
    before, held = state_tensors(running), alive()
    prompts = [Request(f"q{i}@0", prompt(1 + i % 5, i % 7), 5) for i in range(count // 5)]
    found = running.generate(prompts, Sampling(3, seed=2, stop_token_ids=(EOS,)))
    assert [(c.uid, c.sample) for c in found] == [(r.uid, i) for r in prompts for i in range(5)]
    assert not running.busy and not running.open
    assert (running.unfinished, running.pool.free, sorted(running.pool._free)) == (0, 16, list(range(16)))
    assert state_tensors(running) == before
    assert alive() == held
    stats = running.stats
    assert stats.completions == count
    assert stats.completion_tokens == sum(len(c.token_ids) for c in found) == stats.decoded_rows - stats.idle_rows
    per_prompt = defaultdict(int)
    for c in found:
        per_prompt[c.uid] += 1
    assert set(per_prompt.values()) == {5}


def test_many_short_sequences_leave_nothing_behind():
    many_short_sequences(1_000)


@pytest.mark.slow
def test_ten_thousand_short_sequences_leave_nothing_behind():
    many_short_sequences(10_000)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("odd", np.array([], np.int32), 1), "request odd: got an empty prompt"),
        (Request("odd", np.array([3, 99], np.int32), 1), "request odd: got token id 99"),
        (Request("odd", np.array([3, -1], np.int32), 1), "request odd: got token id -1"),
        (Request("odd", prompt(21), 1), "request odd: got 21 tokens, wanted at most 20"),
    ],
    ids=["empty", "unknown id", "negative id", "too long"],
)
def test_requests_that_cannot_be_served_are_named(request_, message):
    running = engine(max_prompt_tokens=20)
    with pytest.raises(ValueError, match=message):
        running.generate([*requests(2), request_], SAMPLING)
    assert len(running.generate([Request("even", prompt(20), 1)], SAMPLING)) == 1  # nothing was left behind


def test_a_sample_twice_and_another_sampling_are_refused():
    running = engine()
    with pytest.raises(ValueError, match="request p0@0: got sample 0 twice"):
        running.generate(requests(1) + requests(1), SAMPLING)
    running.submit(requests(1), SAMPLING)
    with pytest.raises(ValueError, match="request p0@0: got sample 0 twice"):
        running.submit(requests(1), SAMPLING)
    with pytest.raises(ValueError, match="sampling: got"):
        running.submit(requests(2)[1:], replace(SAMPLING, seed=9))
    with pytest.raises(RuntimeError, match="still busy"):
        running.generate(requests(1), SAMPLING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"on_swap": "drop"}, "on_swap: got 'drop'"), ({"mode": "fast"}, "decode mode: got 'fast'"),
     ({"graphs": True}, "graphs: got True with device cpu"), ({"block": -1}, "block: got -1"),
     ({"prefill_piece": 0}, "prefill_piece: got 0")],
    ids=["on_swap", "mode", "graphs", "block", "piece"],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        engine(**settings)
