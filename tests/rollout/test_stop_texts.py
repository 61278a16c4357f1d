"""Texts that end a completion: across tokens, at once, never missed, and cut where users of other engines expect."""

from dataclasses import replace

import numpy as np
import pytest
from engines import EOS, SAMPLING, TOKENIZER, by_name, engine, policy, requests

from mimosa.policy.tokenizer import bytes_tokenizer
from mimosa.records import Request
from mimosa.rollout.sequence import LiveSequence
from mimosa.rollout.stop_texts import StopTexts

FREE = replace(SAMPLING, max_tokens=24, stop_token_ids=(EOS,))


def first_end(tokens: list[int], stops: tuple[str, ...]) -> int | None:
    """By decoding every prefix."""
    for length in range(1, len(tokens) + 1):
        if any(stop in TOKENIZER.decode(tokens[:length], skip_special_tokens=True) for stop in stops):
            return length
    return None


@pytest.mark.parametrize("block", [1, 3, 24])
@pytest.mark.parametrize("stops", [("1",), ("77", "55"), ("5}", "\\boxed{6"), ("ed{",)], ids=str)
def test_a_completion_ends_where_a_stop_text_is_complete(stops, block):
    """Against the same completions without stop texts, cut by hand. Some texts span tokens, some begin inside one."""
    free = by_name(engine(9).generate(requests(8, 4), FREE))
    found = by_name(engine(9, block=block).generate(requests(8, 4), replace(FREE, stop=stops)))
    cut = 0
    for name, c in found.items():
        whole = free[name]
        end = first_end(whole.token_ids.tolist(), stops)
        length = len(whole.token_ids) if end is None else end
        assert c.token_ids.tolist() == whole.token_ids[:length].tolist()
        np.testing.assert_allclose(c.logprobs, whole.logprobs[:length], atol=1e-5)
        assert len(c.policy_version) == length
        text = TOKENIZER.decode(c.token_ids.tolist(), skip_special_tokens=True)
        places = [text.find(stop) for stop in stops if stop in text]
        assert c.text == (text[: min(places)] if places else text)
        assert c.finish_reason == ("stop" if end is not None else whole.finish_reason)
        cut += end is not None
    assert cut >= 3


def test_a_stop_text_reaches_over_blocks_and_bytes():
    """A text of five characters in nine bytes, one token each, found whatever the pieces in which it came."""
    tokenizer = bytes_tokenizer()
    tokens = np.array(tokenizer("a→é→ zz")["input_ids"], np.int32)
    for first in range(1, len(tokens)):
        stops, sequence = StopTexts(tokenizer, ["→é→ z"]), LiveSequence(Request("a", tokens[:1], 1), 0, tokens[:1])
        ends = []
        for piece in (tokens[:first], tokens[first:]):
            sequence.append(piece, np.zeros(len(piece), np.float32), 0)
            ends.append(stops.end(sequence, len(piece)))
        assert next(end for end in ends if end is not None) == 11
        assert stops.before("a→é→ zz") == "a"


def test_work_after_a_stop_text_counts_as_idle():
    running = engine(4, model=policy(), block=24)
    found = running.generate(requests(4, 1), replace(FREE, stop=("1", "2", "3", "4")))
    stats = running.stats
    assert stats.completion_tokens == sum(len(c.token_ids) for c in found)
    assert stats.decoded_rows - stats.idle_rows == stats.completion_tokens
    assert stats.idle_rows > 0


def test_an_empty_stop_text_is_refused():
    with pytest.raises(ValueError, match="stop: got an empty text"):
        engine().generate(requests(1), replace(FREE, stop=("x", "")))
