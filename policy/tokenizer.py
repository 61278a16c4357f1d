"""Text to token ids and back: characters or bytes for tiny policies, any Hugging Face tokenizer for others.

All are `transformers` tokenizers, so that a policy's folder loads with AutoTokenizer.from_pretrained where there is no
mimosa.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..configs.schema import TokenizerConfig
from .checkpoint import find_file
from .hub import bounded_hub, hub_errors

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
SPECIALS = ("<pad>", "<eos>", "<unk>")  # ids 0, 1, 2 of the tokenizers made here


def chars_tokenizer(alphabet: str, symbols: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per character of `alphabet` and per string of `symbols`, which go before their characters.

    Ids: <pad> 0, <eos> 1, <unk> 2, then the symbols, then the characters, each as it comes first. Text made of known
    characters decodes to itself; a text such as "<eos>" is five characters, never the end token.
    """
    if not alphabet and not symbols:
        raise ValueError("tokenizer.alphabet: got no characters, wanted those of the prompts and completions")
    for symbol in symbols:
        if not symbol or symbol in SPECIALS:
            raise ValueError(f"tokenizer.symbols: got {symbol!r}, wanted texts other than '' and {', '.join(SPECIALS)}")
    tokens = dict.fromkeys([*SPECIALS, *symbols, *alphabet])
    tokenizer = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    longest_first = sorted(set(symbols), key=lambda symbol: (-len(symbol), symbol))
    pattern = "|".join([*(re.escape(symbol) for symbol in longest_first), r"[\s\S]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte: the id of byte b is b + 3, after <pad> 0, <eos> 1 and <unk> 2. 259 tokens.

    Every text decodes to itself; bytes that are not UTF-8 decode to U+FFFD.
    """
    letters = _byte_letters()
    vocabulary = {token: place for place, token in enumerate([*SPECIALS, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer)


def load_tokenizer(
    config: TokenizerConfig, model_path: str = "", alphabet: str = "", symbols: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """The tokenizer that `config.kind` names.

    `policy` is the one saved in `model_path`, the policy's folder; `chars` uses `config.alphabet` and `config.symbols`
    or, where these are empty, `alphabet` and `symbols`, what the task's texts need. Raises ValueError when there is no
    such tokenizer or it has no end token.
    """
    if config.kind == "chars":
        tokenizer = chars_tokenizer(config.alphabet or alphabet, tuple(config.symbols) or tuple(symbols))
    elif config.kind == "bytes":
        tokenizer = bytes_tokenizer()
    elif config.kind == "policy":
        tokenizer = _saved_with_policy(model_path)
    elif Path(config.kind).expanduser().is_dir():
        tokenizer = _from_folder(str(Path(config.kind).expanduser()), "tokenizer.kind")
    else:
        tokenizer = _from_hub(config.kind)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer.kind: got {config.kind!r}, which has no end token, wanted a tokenizer with one")
    if config.chat_template:
        tokenizer.chat_template = config.chat_template
    return tokenizer


def copy_tokenizer(source: str, folder: str) -> None:
    """The files of the tokenizer beside a policy, as far as there are any, into another folder."""
    for file in (find_file(source, name) for name in FILES):
        if file is not None and Path(file).parent.resolve() != Path(folder).resolve():
            shutil.copy(file, folder)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    pad, eos, unk = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # the names of special tokens are plain text where they come up in one
    )


def _byte_letters() -> list[str]:
    """The printable letter by which a byte-level vocabulary writes each byte, 0..255.

    Bytes that print in Latin-1 are their own letter; the others take U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _saved_with_policy(model_path: str) -> PreTrainedTokenizerFast:
    if not model_path:
        raise ValueError("tokenizer.kind: got 'policy' without model.path, wanted chars, bytes or a tokenizer's name")
    return _from_folder(model_path, "model.path")


def _from_folder(folder: str, key: str) -> PreTrainedTokenizerFast:
    wanted = "wanted a folder with a tokenizer, or tokenizer.kind=NAME"
    if not Path(folder).is_dir():
        raise ValueError(f"{key}: got {folder!r}, which is no folder, {wanted}")
    try:
        return _fast(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{key}: got {folder!r}, where no tokenizer loads, {wanted} ({_first_line(error)})") from error


def _from_hub(name: str) -> PreTrainedTokenizerFast:
    with bounded_hub() as online:
        try:
            return _fast(AutoTokenizer.from_pretrained(name))
        except hub_errors() as error:
            why = _first_line(error) if online else "the hub cannot be reached and the tokenizer is not in its cache"
            raise ValueError(
                f"tokenizer.kind: got {name!r}, wanted policy, chars, bytes, a folder or a name on the hub ({why})"
            ) from error


def _fast(tokenizer: object) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json")
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
