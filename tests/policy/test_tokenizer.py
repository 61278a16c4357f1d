"""Character and byte tokenizers: exact round trips, and folders that load where there is no mimosa."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mimosa.configs.schema import TokenizerConfig
from mimosa.policy.tokenizer import bytes_tokenizer, chars_tokenizer, load_tokenizer

DIGITS = chars_tokenizer("0123456789+=\n <eos>", ["\\boxed{", "}", "=="])
BYTES = bytes_tokenizer()


def test_characters_and_symbols_are_one_token_each():
    tokenizer = chars_tokenizer("0123456789+=", ["\\boxed{", "}"])
    assert len(tokenizer) == 17
    assert tokenizer("81+52=").input_ids == [13, 6, 15, 10, 7, 16]
    assert tokenizer("0313\\boxed{133}").input_ids == [5, 8, 6, 8, 3, 6, 8, 8, 4]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_the_longest_symbol_is_taken():
    tokenizer = chars_tokenizer("ab", ["a", "ab", "aba"])
    assert tokenizer("abab").input_ids == tokenizer.convert_tokens_to_ids(["aba", "b"])


def test_unknown_characters_have_the_unknown_token():
    assert DIGITS("1é").input_ids[1] == DIGITS.unk_token_id


@pytest.mark.parametrize("text", ["12 +  3\n\n=", "<eos>", " == = \\boxed{1}", "<s>}", ""])
def test_chars_round_trip(text):
    ids = DIGITS(text).input_ids
    assert 1 not in ids  # the name of the end token is not the end token
    assert DIGITS.decode(ids) == DIGITS.decode(ids, skip_special_tokens=True) == text
    assert DIGITS.decode([*ids, 1, 0], skip_special_tokens=True) == text


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_bytes_round_trip_any_text(text):
    ids = BYTES(text).input_ids
    assert ids == [byte + 3 for byte in text.encode()]
    assert BYTES.decode(ids) == BYTES.decode(ids, skip_special_tokens=True) == text


def test_bytes_that_are_no_text_decode_to_a_replacement():
    assert len(BYTES) == 259
    assert BYTES.decode([0xFF + 3, ord("a") + 3, 1], skip_special_tokens=True) == "\ufffda"


@pytest.mark.parametrize("tokenizer", [DIGITS, BYTES], ids=["chars", "bytes"])
def test_a_saved_folder_loads_again_and_needs_no_network(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: pytest.fail("a folder needs no network"))
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba3", "architectures": ["Mamba3ForCausalLM"]}))
    text = "<eos> 1 + 2 = 3 .\n\n\\boxed{3}"
    for again in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(TokenizerConfig(), str(tmp_path))):
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again.decode(again("<eos> 1 =").input_ids) == "<eos> 1 ="
        assert (again.pad_token_id, again.eos_token_id, len(again)) == (0, 1, len(tokenizer))
        assert again.clean_up_tokenization_spaces is False


def test_a_saved_folder_loads_where_there_is_no_mimosa(tmp_path):
    DIGITS.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba3", "architectures": ["Mamba3ForCausalLM"]}))
    code = (
        "import sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "ids = t('1+2=\\\\boxed{3}').input_ids; print(ids, t.decode(ids)); assert 'mimosa' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == f"{DIGITS('1+2=' + chr(92) + 'boxed{3}').input_ids} 1+2=\\boxed{{3}}", run.stderr


def test_each_kind_is_found():
    assert len(load_tokenizer(TokenizerConfig(kind="bytes"))) == 259
    assert len(load_tokenizer(TokenizerConfig(kind="chars"), alphabet="ab", symbols=["}"])) == 6
    given_first = TokenizerConfig(kind="chars", alphabet="abc", symbols=["{{", "}}"], chat_template="{{ messages }}")
    tokenizer = load_tokenizer(given_first, alphabet="x")
    assert len(tokenizer) == 8 and tokenizer.chat_template == "{{ messages }}"


def test_a_folder_by_name_and_one_without_an_end_token(tmp_path):
    DIGITS.save_pretrained(tmp_path)
    assert len(load_tokenizer(TokenizerConfig(kind=str(tmp_path)))) == len(DIGITS)
    settings_file = tmp_path / "tokenizer_config.json"
    saved = json.loads(settings_file.read_text())
    del saved["eos_token"]
    settings_file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="no end token"):
        load_tokenizer(TokenizerConfig(kind=str(tmp_path)))


def test_what_cannot_be_had_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("mimosa.policy.hub.answers", lambda endpoint: False)
    for config, path, part in [
        (TokenizerConfig(), "", r"tokenizer\.kind: got 'policy' without model\.path"),
        (TokenizerConfig(), str(tmp_path / "no"), r"model\.path: got .*no folder"),
        (TokenizerConfig(), str(tmp_path), r"model\.path: got .*no tokenizer loads"),
        (TokenizerConfig(kind="chars"), "", r"tokenizer\.alphabet: got no characters"),
        (TokenizerConfig(kind="chars", symbols=["<eos>"]), "", r"tokenizer\.symbols: got '<eos>'"),
        (TokenizerConfig(kind="someone/none"), "", r"tokenizer\.kind: got 'someone/none'.*hub cannot be reached"),
    ]:
        with pytest.raises(ValueError, match=part) as caught:
            load_tokenizer(config, path)
        assert "\n" not in str(caught.value)
