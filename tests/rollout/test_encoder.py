"""Prompts and demonstrations become token ids; what does not fit or has no token is named by row."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import processors

from mimosa.policy.tokenizer import bytes_tokenizer, chars_tokenizer
from mimosa.records import Message, Prompt
from mimosa.rollout.encoder import encode, encode_responses, prompt_text


def row(prompt, response=None, name="r"):
    return Prompt(id=name, prompt=prompt, verifier="exact", ground_truth="1", response=response)


def test_texts_become_int32_ids_in_order():
    given = [row("ab"), row("é"), row("a" * 5)]
    kept, ids, dropped = encode(given, bytes_tokenizer(), max_tokens=5)
    assert (kept, dropped) == (given, 0)
    assert [tokens.tolist() for tokens in ids] == [[100, 101], [0xC3 + 3, 0xA9 + 3], [100] * 5]
    assert all(tokens.dtype == np.int32 for tokens in ids)


def test_more_texts_than_a_batch_keep_their_order():
    given = [row(str(number)) for number in range(2500)]
    _, ids, _ = encode(given, chars_tokenizer("0123456789"), max_tokens=9)
    assert ["".join(str(token - 3) for token in tokens) for tokens in ids] == [str(number) for number in range(2500)]


def test_a_long_prompt_is_an_error_or_dropped():
    given = [row("abc", name="short"), row("abcd", name="long"), row("ab", name="last")]
    with pytest.raises(ValueError, match=r"'long': got 4 tokens, wanted at most data\.max_prompt_tokens=3"):
        encode(given, bytes_tokenizer(), max_tokens=3)
    kept, ids, dropped = encode(given, bytes_tokenizer(), max_tokens=3, overlong="drop")
    assert ([r.id for r in kept], [len(tokens) for tokens in ids], dropped) == (["short", "last"], [3, 2], 1)
    with pytest.raises(ValueError, match="all 3 prompts exceed"):
        encode(given, bytes_tokenizer(), max_tokens=1, overlong="drop")


def test_an_unknown_character_is_named_with_its_row():
    tokenizer = chars_tokenizer("ab=", ["}"])
    with pytest.raises(ValueError, match=r"'bad': got 'c' at character 3"):
        encode([row("ab="), row("ab}c", name="bad")], tokenizer, max_tokens=9)
    with pytest.raises(ValueError, match="'bad': got '7' at character 1"):
        encode_responses([row("ab", "a7", name="bad")], tokenizer)


def test_chats_go_through_the_template_or_are_joined_by_newlines():
    chat = row((Message("system", "S"), Message("user", "hi")))
    tokenizer = bytes_tokenizer()
    assert prompt_text(chat, tokenizer) == "S\nhi"
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    _, ids, _ = encode([row("plain"), chat], tokenizer, max_tokens=99)
    assert [tokenizer.decode(tokens) for tokens in ids] == ["plain", "<system>S<user>hi<bot>"]


def test_special_tokens_go_before_texts_but_not_before_chats_or_demonstrations():
    tokenizer = bytes_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    tokenizer.chat_template = "{{ messages[0].content }}"
    _, ids, _ = encode([row("a", "b"), row((Message("user", "a"),), "b")], tokenizer, max_tokens=9)
    assert [tokens.tolist() for tokens in ids] == [[0, 100], [100]]
    assert encode_responses([row("a", "b")], tokenizer)[0].tolist() == [101, 1]


def test_demonstrations_end_with_the_end_token():
    tokenizer = chars_tokenizer("0123456789", ["\\boxed{", "}"])
    (ids,) = encode_responses([row("1", "03\\boxed{3}")], tokenizer)
    assert ids.dtype == np.int32
    assert ids.tolist() == [5, 8, 3, 8, 4, 1]
    with pytest.raises(ValueError, match="'r': no response"):
        encode_responses([row("1")], tokenizer)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="'r': got no tokens"):
        encode([row("")], bytes_tokenizer(), max_tokens=9)
