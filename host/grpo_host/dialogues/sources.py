"""Where dialogues come from: a list, a JSONL file, or somebody's SQLite table. Rows with their places."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from grpo_host.utils.paths import expanded
from grpo_sdk.errors import ConfigError

Row: TypeAlias = "Mapping[str, Any]"
Source: TypeAlias = "str | Path | Iterable[Row]"

SQLITE_HEAD = b"SQLite format 3\0"


def read_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """Every row of ``source`` with its place. Raises ``ConfigError`` if it cannot be read."""
    if not isinstance(source, str | Path):
        for index, row in enumerate(source):
            yield f"dialogue {index} of the list", row
        return
    path = expanded(source)
    yield from _read_table(path) if is_sqlite(path) else _read_jsonl(path)


def is_sqlite(path: Path) -> bool:
    """Whether ``path`` is a SQLite file. Raises ``ConfigError`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_HEAD)) == SQLITE_HEAD
    except OSError as problem:
        hint = " To make a SQLite file of dialogues: DialogueDatabase.create(path, rows)"
        hint = hint if isinstance(problem, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot read dialogues: {problem.strerror}.{hint}") from None


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection to the existing file ``path`` that any thread may use, one at a time."""
    address = f"file:{quote(str(path.resolve()))}?mode={'rw' if write else 'ro'}"
    return sqlite3.connect(address, uri=True, check_same_thread=False, timeout=30.0)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                yield where, json.loads(line)
            except UnicodeDecodeError:
                raise ConfigError(f"{where}: this line is not UTF-8 text") from None
            except json.JSONDecodeError as problem:
                raise ConfigError(
                    f"{where}: this line is no JSON ({problem.msg}, column {problem.colno}). "
                    "A file of dialogues has one JSON object a line"
                ) from None


def _read_table(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a table ``dialogues`` that something else wrote."""
    try:
        with closing(connect(path, write=False)) as connection:
            connection.row_factory = sqlite3.Row
            for number, row in enumerate(connection.execute("SELECT * FROM dialogues"), 1):
                where = f"{path}: row {number} of the table dialogues"
                yield where, _decoded({key: row[key] for key in row.keys()}, where)  # noqa: SIM118
    except sqlite3.Error as problem:
        raise ConfigError(f"{path}: its table dialogues cannot be read: {problem}") from None


def _decoded(row: dict[str, Any], where: str) -> dict[str, Any]:
    """``row`` without empty columns, and with those that hold JSON decoded."""
    filled = {key: value for key, value in row.items() if value is not None}
    for key in ("messages", "metadata"):
        if isinstance(filled.get(key), str):
            try:
                filled[key] = json.loads(filled[key])
            except ValueError as problem:
                raise ConfigError(f'{where}: "{key}" is no JSON: {problem}') from None
    return filled
