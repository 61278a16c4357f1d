"""Prompts and demonstrations as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 1024  # texts per tokenizer call: bounds the memory of its encodings


def encode(
    rows: Sequence[Prompt], tokenizer: PreTrainedTokenizerFast, max_tokens: int, overlong: str = "error"
) -> tuple[list[Prompt], list[np.ndarray], int]:
    """The rows kept, their prompts' token ids (int32 [tokens] each), and how many rows were dropped as too long.

    A text goes through the tokenizer with the special tokens it puts first, a chat through its chat template with the
    generation prompt; without a template the messages are joined by newlines. Raises ValueError for a prompt longer
    than `max_tokens` when `overlong` is "error", for one without a token, and for a character the tokenizer has no
    token for; each names the row.
    """
    kept, ids = [], []
    for row, tokens in encode_each(rows, tokenizer, max_tokens, overlong):
        if tokens is not None:
            kept.append(row)
            ids.append(tokens)
    if rows and not kept:
        raise ValueError(f"data.max_prompt_tokens: got {max_tokens}, which all {len(rows)} prompts exceed")
    return kept, ids, len(rows) - len(kept)


def encode_each(
    rows: Iterable[Prompt], tokenizer: PreTrainedTokenizerFast, max_tokens: int, overlong: str = "error"
) -> Iterator[tuple[Prompt, np.ndarray | None]]:
    """Every row with its prompt's token ids, None for one that is dropped as too long. BATCH rows are held at once; the errors
    are those of `encode`."""
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        for row, tokens in zip(batch, _tokenized(batch, tokenizer), strict=True):
            if len(tokens) > max_tokens and overlong == "error":
                raise ValueError(
                    f"prompt {row.id!r}: got {len(tokens)} tokens, wanted at most data.max_prompt_tokens={max_tokens} "
                    "(data.overlong=drop leaves such rows out)"
                )
            yield row, tokens if len(tokens) <= max_tokens else None


def encode_responses(rows: Sequence[Prompt], tokenizer: PreTrainedTokenizerFast) -> list[np.ndarray]:
    """The demonstrations' token ids, the end token last: int32 [tokens + 1] each. ValueError for a row without one."""
    for row in rows:
        if row.response is None:
            raise ValueError(f"prompt {row.id!r}: no response, wanted a demonstration (data.fields.response names it)")
    texts = [row.response or "" for row in rows]
    end = np.array([tokenizer.eos_token_id], np.int32)
    encoded = _in_batches(rows, texts, tokenizer, special=False)
    return [np.concatenate([tokens, end]) for tokens in encoded]


def prompt_text(row: Prompt, tokenizer: PreTrainedTokenizerFast) -> str:
    """The text a policy is given: the prompt, or its messages through the chat template."""
    if isinstance(row.prompt, str):
        return row.prompt
    if not tokenizer.chat_template:
        return "\n".join(turn.content for turn in row.prompt)
    turns = [{"role": turn.role, "content": turn.content} for turn in row.prompt]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _tokenized(rows: Sequence[Prompt], tokenizer: PreTrainedTokenizerFast) -> list[np.ndarray]:
    """Ids of every prompt, in order. A template writes special tokens itself; a plain text gets the tokenizer's."""
    ids: list[np.ndarray] = [np.empty(0, np.int32)] * len(rows)
    for special in (True, False):
        places = [
            i for i, row in enumerate(rows) if (isinstance(row.prompt, str) or not tokenizer.chat_template) is special
        ]
        chosen = [rows[i] for i in places]
        texts = [prompt_text(row, tokenizer) for row in chosen]
        for place, tokens in zip(places, _in_batches(chosen, texts, tokenizer, special), strict=True):
            ids[place] = tokens
    for row, tokens in zip(rows, ids, strict=True):
        if not len(tokens):
            raise ValueError(f"prompt {row.id!r}: got no tokens, wanted one or more")
    return ids


def _in_batches(
    rows: Sequence[Prompt], texts: list[str], tokenizer: PreTrainedTokenizerFast, special: bool
) -> list[np.ndarray]:
    ids: list[np.ndarray] = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        encoded = tokenizer(part, add_special_tokens=special, return_attention_mask=False)["input_ids"]
        ids.extend(np.array(tokens, np.int32) for tokens in encoded)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id:  # some vocabularies have one token for both
        for row, text, tokens in zip(rows, texts, ids, strict=True):
            if unknown in tokens:
                _refuse_unknown(row, text, tokenizer)
    return ids


def _refuse_unknown(row: Prompt, text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    place = list(encoded["input_ids"]).index(tokenizer.unk_token_id)
    start, end = encoded["offset_mapping"][place]
    raise ValueError(
        f"prompt {row.id!r}: got {text[start:end]!r} at character {start}, which the tokenizer has no token for, "
        "wanted characters it knows (tokenizer.alphabet)"
    )
