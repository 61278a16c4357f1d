"""Small engines, their requests, and what is compared of their completions."""

from __future__ import annotations

import numpy as np
import torch
from builders import tiny_config

from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer
from mimosa.policy.weights import pack_version, rollout_dtypes, travelling_parameters
from mimosa.records import Completion, PolicyVersion, Request, Sampling
from mimosa.rollout.engine import Engine

torch.set_num_threads(1)  # as a rollout actor has; two for tensors this small wait for each other
TOKENIZER = chars_tokenizer("0123456789+=", ("\\boxed{", "}"))
EOS = TOKENIZER.eos_token_id
VOCAB = len(TOKENIZER)
SAMPLING = Sampling(max_tokens=9, seed=3, stop_token_ids=(EOS,))


def policy(seed: int = 0, **changes) -> Mamba3ForCausalLM:
    torch.manual_seed(seed)
    model = Mamba3ForCausalLM(tiny_config(vocab_size=VOCAB, **changes)).eval()
    with torch.no_grad():  # a random head is all but uniform; sharper logits make wrong ones show
        model.backbone.embedding.weight.mul_(5)
    return model


def engine(slots: int = 7, model: Mamba3ForCausalLM | None = None, **settings) -> Engine:
    return Engine(model or policy(), TOKENIZER, slots=slots, **settings)


def weights(model: Mamba3ForCausalLM, number: int) -> PolicyVersion:
    return pack_version(number, travelling_parameters(model), rollout_dtypes(model))


def prompt(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, length)).integers(3, VOCAB, length).astype(np.int32)


def requests(count: int = 5, samples: int = 3, seed: int = 0) -> list[Request]:
    return [Request(f"p{i}@0", prompt(1 + 3 * i, seed), samples) for i in range(count)]


def by_name(completions: list[Completion]) -> dict[tuple[str, int], Completion]:
    found = {(c.uid, c.sample): c for c in completions}
    assert len(found) == len(completions)
    return found


def same(a: dict, b: dict, exact: bool = False) -> None:
    """Equal tokens, reasons and texts, and logprobs within 1e-5, or bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].token_ids.tolist() == b[name].token_ids.tolist(), name
        np.testing.assert_allclose(a[name].logprobs, b[name].logprobs, atol=0 if exact else 1e-5, rtol=0)
        assert (a[name].finish_reason, a[name].text) == (b[name].finish_reason, b[name].text)


def logprobs_of(
    model: Mamba3ForCausalLM, start: np.ndarray, completion: Completion, temperature: float = 1.0
) -> np.ndarray:
    """A completion's logprobs by one forward pass of the model."""
    ids = torch.from_numpy(np.concatenate([start, completion.token_ids])).long()[None]
    with torch.no_grad():
        out = model(ids[:, :-1], targets=ids[:, 1:], temperature=temperature)
    return out.logprobs[0, len(start) - 1 :].numpy()
