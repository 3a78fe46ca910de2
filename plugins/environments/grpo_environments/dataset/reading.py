"""Rows of a file, a directory or a dataset of the hub, by split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import ConfigError, MissingExtraError

VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION, HELD_OUT)

Row = dict[str, Any]


def read_file(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file. Raises ``ConfigError`` that names the line."""
    try:
        return list(_READERS[path.suffix.lower()](path))
    except KeyError:
        raise ConfigError(
            f"{path}: what is written there cannot be told from its name; it is to end with one of "
            f"{', '.join(_READERS)}, or to be a directory that datasets' save_to_disk() wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: cannot be read: {problem}") from problem


def read_directory(path: Path) -> dict[str, list[Row]]:
    """What ``save_to_disk`` of a dataset wrote, by split; under ``""`` if it has none."""
    datasets = _datasets("reading a directory")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: no dataset that save_to_disk() wrote: {problem}") from problem
    return _by_split(found)


def read_hub(name: str, subset: str | None) -> dict[str, list[Row]]:
    """A dataset of the Hugging Face hub, by split; downloaded once. Runs no code of it."""
    datasets = _datasets("reading a dataset of the hub")
    try:
        found = datasets.load_dataset(name, subset)
    except Exception as problem:  # the hub's client, and each format, has its own
        raise ConfigError(
            f"the dataset {name} cannot be had: {type(problem).__name__}: {problem}"
        ) from problem
    return _by_split(found)


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ImportError as problem:
        raise MissingExtraError(what, "datasets", "train") from problem
    datasets.disable_progress_bars()
    return datasets


def _by_split(found: Any) -> dict[str, list[Row]]:
    if isinstance(found, Mapping):
        return {str(split): list(part) for split, part in found.items()}
    return {"": list(found)}


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(path, number, line)


def _object(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise ConfigError(f"{path}:{number}: no JSON: {problem}") from problem
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: {line.strip():.40} is no JSON object; each line is one row")
    return row


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as problem:
        raise ConfigError(
            f"{path}: no JSON: {problem}. One object a line belongs in a .jsonl file"
        ) from problem
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise ConfigError(f"{path}: no list of objects")
    yield from rows


def _separated(delimiter: str) -> Any:
    def read(path: Path) -> Iterator[Row]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            for row in rows:
                if None in row or None in row.values():
                    raise ConfigError(
                        f"{path}:{rows.line_num}: it has not as many values as the first line has names"
                    )
                yield dict(row)

    return read


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as problem:
        raise MissingExtraError("reading a Parquet file", "pyarrow", "train") from problem
    try:
        yield from parquet.read_table(path).to_pylist()
    except ArrowInvalid as problem:
        raise ConfigError(f"{path}: no Parquet: {problem}") from problem


_READERS: dict[str, Any] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
