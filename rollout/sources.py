"""Raw rows from files and from the hub, each with the place it stands at, so that an error can name it."""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configs.schema import SourceConfig
from ..policy.hub import bounded_hub, hub_errors, offline

LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
SUFFIXES = (*LINES, ".parquet")
BOM = "\ufeff"  # some editors begin a UTF-8 file with it


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in its source."""

    place: str  # "train.jsonl line 7", "train.parquet row 7", "openai/gsm8k row 7": counted from 1
    columns: Mapping[str, Any]


def raw_rows(source: SourceConfig) -> Iterator[RawRow]:
    """The rows of `source.path` or `source.hub`, at most `source.limit` of them.

    Raises ValueError, one line, for a file that is missing, is not of its kind or has a broken line, and for a hub data
    set that cannot be had.
    """
    rows = _hub_rows(source) if source.hub else itertools.chain.from_iterable(map(_file_rows, files(source.path)))
    return itertools.islice(rows, source.limit or None)


def files(path: str) -> list[Path]:
    """The data files that a path stands for: the file, those right inside the folder, or the matches of the glob."""
    whole = Path(path).expanduser()
    if whole.is_file():
        found = [whole]
    elif whole.is_dir():
        found = [entry for entry in sorted(whole.iterdir()) if entry.name.endswith(SUFFIXES)]
    else:
        found = [Path(match) for match in sorted(glob.glob(str(whole), recursive=True)) if Path(match).is_file()]
    if not found:
        raise ValueError(
            f"data path: got {path!r}, where there is nothing, wanted a file, folder or glob of {', '.join(SUFFIXES)}"
        )
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise ValueError(f"data path: got {str(file)!r}, wanted a file that ends in {', '.join(SUFFIXES)}")
    return found


def _file_rows(file: Path) -> Iterator[RawRow]:
    if file.name.endswith(".parquet"):
        return _parquet_rows(file)
    return _array_rows(file) if _is_array(file) else _line_rows(file)


def _line_rows(file: Path) -> Iterator[RawRow]:
    """JSON Lines read as text. The JSON reader of `datasets` turns a text such as 2024-01-01 into a time, gives every
    row the columns of all others, fails on a U+2028 inside a text, and does not say which line is broken."""
    for number, row in enumerate(_streamed("text", file), start=1):
        if row["text"].strip():
            yield RawRow(f"{file} line {number}", _object(row["text"], f"{file} line {number}"))


def _object(text: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text.removeprefix(BOM))
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: got {type(value).__name__}, wanted an object")
    if "\\ud" in text.lower():
        _refuse_half_characters(value, place)
    return value


def _refuse_half_characters(value: Any, place: str) -> None:
    """An escape such as \\ud83d without its other half is JSON, but no text that could be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: got half of a surrogate pair, wanted whole characters") from error


def _is_array(file: Path) -> bool:
    """True for a JSON file that is one list of rows; one object per line is the other form."""
    if not file.name.endswith((".json", ".json.gz")):
        return False
    first = next((row["text"] for row in _streamed("text", file) if row["text"].strip()), "")
    return first.removeprefix(BOM).lstrip().startswith("[")


def _array_rows(file: Path) -> Iterator[RawRow]:
    (whole,) = _streamed("text", file, sample_by="document")
    try:
        rows = json.loads(whole["text"].removeprefix(BOM))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file} row {number}: got {type(row).__name__}, wanted an object")
        yield RawRow(f"{file} row {number}", row)


def _parquet_rows(file: Path) -> Iterator[RawRow]:
    for number, row in enumerate(_streamed("parquet", file), start=1):
        yield RawRow(f"{file} row {number}", row)


def _streamed(kind: str, file: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """The rows of one file through `datasets`, without a copy in its cache."""
    import datasets

    try:
        with offline():
            rows = datasets.load_dataset(
                kind, data_files=glob.escape(str(file)), split="train", streaming=True, **options
            )
        yield from rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{file}: cannot be read as {kind}: {_first_line(error)}") from error


def _hub_rows(source: SourceConfig) -> Iterator[RawRow]:
    import datasets

    name = "/".join(filter(None, (source.hub, source.subset)))
    with bounded_hub() as online, _quiet():
        try:
            rows = datasets.load_dataset(source.hub, source.subset or None, split=source.split)
        except (*hub_errors(), datasets.exceptions.DatasetsError) as error:
            if online:
                raise ValueError(f"data hub: got {name!r}, split {source.split!r}: {_first_line(error)}") from error
            raise ValueError(
                f"data hub: got {name!r}, which is not in the local cache while the hub cannot be reached, "
                "wanted a connection, or a file instead: data.train.path=FILE"
            ) from error
    for number, row in enumerate(rows, start=1):
        yield RawRow(f"{name} row {number}", row)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the data set library's progress bars."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
