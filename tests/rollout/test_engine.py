import numpy as np
import pytest
import torch
from builders import tiny_config

from mimosa.kernels.sampling import gumbel_noise, sequence_key
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer
from mimosa.policy.weights import pack_version, rollout_dtypes, travelling_parameters
from mimosa.records import Request, Sampling
from mimosa.rollout.engine import Engine

TOKENIZER = chars_tokenizer("0123456789+=", ("\\boxed{", "}"))
EOS = TOKENIZER.eos_token_id


def policy(seed: int = 0, **changes) -> Mamba3ForCausalLM:
    torch.manual_seed(seed)
    model = Mamba3ForCausalLM(tiny_config(vocab_size=len(TOKENIZER), **changes)).eval()
    with torch.no_grad():  # a random head is all but uniform; sharper logits make wrong ones show
        model.backbone.embedding.weight.mul_(5)
    return model


def engine(slots: int = 7, model: Mamba3ForCausalLM | None = None, noise_block: int = 4) -> Engine:
    return Engine(model or policy(), TOKENIZER, slots=slots, noise_block=noise_block)


def requests(count: int = 5, samples: int = 3, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(f"p{i}@0", rng.integers(3, len(TOKENIZER), 1 + 3 * i).astype(np.int32), samples) for i in range(count)
    ]


def by_name(completions) -> dict:
    return {(c.uid, c.sample): c for c in completions}


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].token_ids.tolist() == b[name].token_ids.tolist(), name
        np.testing.assert_allclose(a[name].logprobs, b[name].logprobs, atol=1e-5)
        assert a[name].finish_reason == b[name].finish_reason


SAMPLING = Sampling(max_tokens=9, seed=3, stop_token_ids=(EOS,))


def test_tokens_are_those_of_a_sequence_alone():
    """Each completion against sampling by hand: whole-prefix forward passes and the noise of its own name."""
    model = policy()
    for c in engine(model=model).generate(requests(4, 2), SAMPLING):
        prompt = next(r for r in requests(4, 2) if r.uid == c.uid).token_ids.tolist()
        tokens: list[int] = []
        key = np.array([sequence_key(c.uid, c.sample)], np.uint64)
        for position, logprob in enumerate(c.logprobs):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + tokens])).logits[0, -1]
            noise = gumbel_noise(3, key, np.array([position]), len(TOKENIZER))[0]
            token = int((logits + torch.from_numpy(noise)).argmax())
            assert logits.log_softmax(-1)[token].item() == pytest.approx(float(logprob), abs=1e-5)
            tokens.append(token)
        assert tokens == c.token_ids.tolist()
        assert (c.finish_reason == "stop") == (tokens[-1] == EOS)
        assert len(tokens) == 9 or tokens[-1] == EOS


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_slots_order_and_neighbours_change_nothing(slots):
    expected = by_name(engine(7).generate(requests(), SAMPLING))
    same(by_name(engine(slots, noise_block=1).generate(requests()[::-1], SAMPLING)), expected)


def test_seed_sample_and_round_each_give_other_tokens():
    one = by_name(engine().generate(requests(1, 2), SAMPLING))
    other_seed = by_name(engine().generate(requests(1, 2), Sampling(9, seed=4, stop_token_ids=(EOS,))))
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
    model, hot = policy(), Sampling(4, temperature=2.5)
    (found,) = engine(model=model).generate(requests(1, 1), hot)
    prompt = torch.from_numpy(requests(1, 1)[0].token_ids).long()
    ids = torch.cat([prompt, torch.from_numpy(found.token_ids).long()])[None]
    with torch.no_grad():
        out = model(ids[:, :-1], targets=ids[:, 1:], temperature=2.5)
    np.testing.assert_allclose(found.logprobs, out.logprobs[0, len(prompt) - 1 :], atol=1e-5)


def test_new_weights_in_place_and_in_the_version():
    first, second = policy(0), policy(1)
    version = pack_version(5, travelling_parameters(second), rollout_dtypes(second))
    running = engine(model=first)
    addresses = [p.data_ptr() for p in first.parameters()]
    running.update_weights(version)
    assert [p.data_ptr() for p in first.parameters()] == addresses
    found = by_name(running.generate(requests(), SAMPLING))
    same(found, by_name(engine(model=second).generate(requests(), SAMPLING)))
    assert all((c.policy_version == 5).all() for c in found.values())


def test_many_short_sequences_leave_nothing_behind():
    running = engine(slots=3)
    found = running.generate(requests(40, 5), Sampling(2, stop_token_ids=(EOS,)))
    assert len(found) == 200
    assert (running.pool.live, running.pool.free, len(running.waiting)) == ([], 3, 0)


@pytest.mark.parametrize(
    ("ids", "message"), [([], "got an empty prompt"), ([3, 99], "got token id 99")], ids=["empty", "unknown id"]
)
def test_requests_that_cannot_be_served_are_named(ids, message):
    with pytest.raises(ValueError, match=f"request odd: {message}"):
        engine().generate([Request("odd", np.array(ids, np.int32), 1)], SAMPLING)
