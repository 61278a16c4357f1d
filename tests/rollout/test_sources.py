"""Raw rows come unchanged from JSON Lines, JSON, parquet and the hub's cache, and an error names the line."""

from __future__ import annotations

import gzip
import json
import socket
import time

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mimosa.configs.schema import SourceConfig
from mimosa.rollout.sources import files, raw_rows


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    asked = []

    def refuse(host, *_args, **_kwargs):
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not asked, "a local file needs no network"


def columns(path, limit=0):
    return [dict(row.columns) for row in raw_rows(SourceConfig(path=str(path), limit=limit))]


def test_json_lines_keep_every_value_as_it_is(tmp_path):
    rows = [
        {"prompt": "a\u2028b", "when": "2024-01-01", "n": 1},
        {"prompt": "ü", "n": "one", "deep": {"list": [1, "x", None]}},
        {"n": 1.5},
    ]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text("\ufeff" + text.replace("\n\n", "\r\n\n"), encoding="utf-8")
    given = list(raw_rows(SourceConfig(path=str(tmp_path / "rows.jsonl"))))
    assert [dict(row.columns) for row in given] == rows
    assert [row.place.rpartition(" line ")[2] for row in given] == ["1", "3", "5"]


def test_json_arrays_gzip_and_parquet(tmp_path):
    rows = [{"prompt": "x", "chat": [{"role": "user", "content": "hi"}], "n": number} for number in range(5)]
    (tmp_path / "array.json").write_text("\n" + json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "lines.jsonl.gz").write_bytes(
        gzip.compress(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode())
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("array.json", "lines.json", "lines.jsonl.gz", "rows.parquet"):
        assert columns(tmp_path / name) == rows, name
        assert columns(tmp_path / name, limit=2) == rows[:2], name


def test_folders_and_globs_go_in_the_order_of_names(tmp_path):
    for name, number in (("b.jsonl", 2), ("a.jsonl", 1), ("c.json", 3), ("notes.txt", 9)):
        (tmp_path / name).write_text(json.dumps({"n": number}))
    assert [row["n"] for row in columns(tmp_path)] == [1, 2, 3]
    assert [row["n"] for row in columns(tmp_path / "*.jsonl")] == [1, 2]
    (tmp_path / "odd[1].jsonl").write_text('{"n": 7}')
    assert files(str(tmp_path / "odd[1].jsonl")) == [tmp_path / "odd[1].jsonl"]
    assert columns(tmp_path / "odd[1].jsonl") == [{"n": 7}]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b'{"p": 1}\n\n{"p": 2\n', ["a.jsonl line 3", "not JSON"]),
        ("a.jsonl", b'{"p": 1}\n[1]\n', ["a.jsonl line 2", "got list, wanted an object"]),
        ("a.jsonl", b'{"p": 1}\n{"p": "\\ud83d"}\n', ["a.jsonl line 2", "surrogate"]),
        ("a.jsonl", b'{"p": "\xff"}', ["a.jsonl", "not UTF-8", "byte 7"]),
        ("a.json", b'[{"p": 1}, 2]', ["a.json row 2", "got int"]),
        ("a.json", b'[{"p": 1},\n', ["a.json", "not JSON", "line 2"]),
        ("a.parquet", b"PAR1....", ["a.parquet", "parquet"]),
        ("a.csv", b"p\n1\n", ["a.csv", ".jsonl"]),
    ],
)
def test_broken_files_are_named(name, content, parts, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        columns(tmp_path / name)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl.*wanted a file, folder or glob"):
        columns(tmp_path / "nowhere.jsonl")


def test_without_the_hub_only_its_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("mimosa.policy.hub.answers", lambda endpoint: False)
    folder = tmp_path / "someone___sums" / "main" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    table = datasets.Dataset.from_list([{"question": "1+1", "answer": "#### 2"}])
    table.info.write_to_directory(str(folder))
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "sums-train.arrow"), features=table.features) as writer:
        writer.write_table(table.data.table)
        examples, size = writer.finalize()
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {
        "config_name": "main",
        "dataset_name": "sums",
        "builder_name": "parquet",
        "version": {"version_str": "0.0.0"},
    }
    info["splits"] = {"train": {"name": "train", "num_bytes": size, "num_examples": examples, "dataset_name": "sums"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    rows = list(raw_rows(SourceConfig(hub="someone/sums", subset="main")))
    assert [(row.place, dict(row.columns)) for row in rows] == [
        ("someone/sums/main row 1", {"question": "1+1", "answer": "#### 2"})
    ]
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"someone/other.*not in the local cache.*data\.train\.path") as caught:
        list(raw_rows(SourceConfig(hub="someone/other")))
    assert "\n" not in str(caught.value) and time.monotonic() - began < 5
    assert not datasets.config.HF_HUB_OFFLINE
