"""Texts that end a completion, wherever their characters fall between tokens."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from .sequence import LiveSequence

TOKENS_PER_CHARACTER = 4  # at most, of tokens that are bytes


class StopTexts:
    """Looks for stop texts in what sequences have said."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]):
        """Raises ValueError for an empty stop text."""
        if "" in texts:
            raise ValueError("stop: got an empty text, wanted texts that end a completion")
        self.tokenizer, self.texts = tokenizer, tuple(texts)
        self.reach = TOKENS_PER_CHARACTER * max(map(len, self.texts), default=0)

    def end(self, sequence: LiveSequence, fresh: int) -> int | None:
        """After how many tokens the first stop text was complete, when that was within the last `fresh` ones."""
        if not self.texts or not self._hit(self.decode(sequence.recent(fresh + self.reach).tolist())):
            return None
        tokens = sequence.token_ids().tolist()
        for length in range(sequence.length - fresh + 1, sequence.length + 1):
            if self._hit(self.decode(tokens[:length])):
                return length
        return None  # only in the window, whose first token may read otherwise in its place

    def before(self, text: str) -> str:
        """The text up to the first stop text, or all of it."""
        places = [place for place in (text.find(stop) for stop in self.texts) if place >= 0]
        return text[: min(places)] if places else text

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _hit(self, text: str) -> bool:
        return any(stop in text for stop in self.texts)
