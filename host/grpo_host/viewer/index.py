"""A run's trajectories, indexed: made once, beside the run, and kept up while the run grows.

SQLite with FTS5. A row has what lists and filters need, where the trajectory's line stands in its file,
and the words of its messages; the exact tokens stay in the file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grpo_host.models.embedded import cache_directory
from grpo_host.viewer.lines import HEAD, JsonLines, Row, Stamp, files_of, row_of

NAME = "index.sqlite"
VERSION = 3
"""An index of another version is made anew."""
BATCH = 2000
"""Trajectories a transaction: what is found while the index is made, and what is in memory."""
ROWS = 1000
"""Rows a statement, for which sqlite3 lets go of the interpreter's lock once, and waits for it once."""
KEPT_UP = 1.0
"""Seconds of work that an index of a run that grows may be behind without being said to be made."""

_TABLES = """
CREATE TABLE files (
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, inode INTEGER, offset INTEGER, head BLOB
);
CREATE TABLE trajectories (
  id INTEGER PRIMARY KEY, tid TEXT, label TEXT, step INTEGER, split TEXT, environment TEXT, task TEXT,
  sample INTEGER, reward REAL, success INTEGER, status TEXT, turns INTEGER, tokens INTEGER,
  tool_calls INTEGER, tool_errors INTEGER, cut INTEGER, said INTEGER,
  file INTEGER, offset INTEGER, length INTEGER
);
CREATE TABLE tools (label TEXT, step INTEGER, name TEXT, calls INTEGER, errors INTEGER,
  PRIMARY KEY (label, name)) WITHOUT ROWID;
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT);
CREATE VIRTUAL TABLE words USING fts5(
  text, content='texts', content_rowid='id', columnsize=0
);
INSERT INTO words (words, rank) VALUES ('hashsize', 16777216);
INSERT INTO words (words, rank) VALUES ('automerge', 16);
INSERT INTO words (words, rank) VALUES ('crisismerge', 32);
CREATE INDEX by_tid ON trajectories (tid);
CREATE INDEX by_step ON trajectories (label, task);
"""
_WORDS = "INSERT INTO words (rowid, text) SELECT id, text FROM texts WHERE id > ?"
_COUNT_TOOL = (
    "INSERT INTO tools VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "calls = calls + excluded.calls, errors = errors + excluded.errors"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an index is."""

    ready: bool
    """Also if a run that grows has just added what takes less than ``KEPT_UP`` seconds."""
    share: float
    """Of the bytes that there are."""
    seconds_left: float | None
    """None if nothing was read yet, or if another process makes the index."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        if self.ready:
            return {"state": "ready", "share": 1.0, "seconds_left": 0.0}
        left = None if self.seconds_left is None else round(self.seconds_left, 1)
        return {"state": "indexing", "share": round(self.share, 4), "seconds_left": left}


class _OutdatedError(Exception):
    """The files were rewritten behind what is indexed, as when a run goes on from a checkpoint."""


class Index:
    """The index of the run in the directory ``run``; it is kept in ``cache`` if that cannot be written."""

    def __init__(self, run: Path, cache: Path | None = None) -> None:
        self.run = run
        self.path = run / NAME
        if not (os.access(run, os.W_OK) or self.path.exists()):
            folder = cache or cache_directory() / "index"
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / f"{hashlib.sha256(str(run).encode()).hexdigest()[:24]}.sqlite"
        self._refreshing = threading.Lock()
        self._seen: tuple[Stamp, ...] | None = None
        self._speed = 0.0
        """Bytes a second, while it is made."""

    def refresh(self, stop: threading.Event | None = None) -> bool:
        """Index what is new, unless another thread or process does; return whether all is indexed now."""
        if not self._refreshing.acquire(blocking=False):
            return False
        try:
            now = tuple(files_of(self.run))
            if now == self._seen and self.path.exists():
                return True
            with FileLock(self.path.with_suffix(".lock"), timeout=0):
                try:
                    done = self._bring_up_to_date(now, stop)
                except (_OutdatedError, sqlite3.DatabaseError):
                    self._remove()
                    done = self._bring_up_to_date(now, stop)
            self._seen = now if done else None
            return done
        except Timeout:
            return False
        finally:
            self._refreshing.release()

    def progress(self) -> Progress:
        """How far it is, whoever makes it."""
        files = tuple(files_of(self.run))
        total = sum(file.size for file in files)
        done = 0
        with suppress(sqlite3.Error), self.reading() as database:
            offsets = dict(database.execute("SELECT name, offset FROM files"))
            done = sum(min(offsets.get(file.name, 0), file.size) for file in files)
        missing = total - done
        ready = missing == 0 or files == self._seen  # the last line may be half there
        left = missing / self._speed if self._speed else None
        kept_up = self._seen is not None and left is not None and left < KEPT_UP
        return Progress(ready or kept_up, 1.0 if ready else done / total, 0.0 if ready else left)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads. Raises ``sqlite3.Error`` if there is no index yet."""
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            yield database

    def line(self, row: sqlite3.Row) -> bytes:
        """The trajectory's line of JSON. Raises ``OSError`` if the file is gone."""
        with self.reading() as database:
            (name,) = database.execute("SELECT name FROM files WHERE id = ?", (row["file"],)).fetchone()
        return JsonLines(self.run / name).at(row["offset"], row["length"])

    def _bring_up_to_date(self, files: Iterable[Stamp], stop: threading.Event | None) -> bool:
        with closing(self._open()) as database:
            known = {
                row[1]: row for row in database.execute("SELECT id, name, inode, offset, head FROM files")
            }
            self._check(database, files, known)
            for file in files:
                if not self._read_file(database, file, stop):
                    return False
            # What is left of the log would be read again with each question.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return True

    def _check(self, database: sqlite3.Connection, files: Iterable[Stamp], known: dict[str, Any]) -> None:
        """Raise ``_OutdatedError`` if what is indexed has changed; a file that was compressed has not."""
        new = [file for file in files if file.name not in known]
        here = {file.name: file for file in files}
        for number, name, inode, offset, head in known.values():
            file = here.get(name)
            lines = JsonLines(self.run / name)
            if file and file.inode == inode and file.size >= offset and lines.at(0, len(head)) == head:
                continue
            packed = next((item for item in new if item.packed), None)
            if (file is not None and file.packed) or packed is None:
                raise _OutdatedError
            if JsonLines(self.run / packed.name).at(0, len(head)) != head:
                raise _OutdatedError
            database.execute(
                "UPDATE files SET name = ?, inode = ? WHERE id = ?", (packed.name, packed.inode, number)
            )
            database.commit()

    def _read_file(self, database: sqlite3.Connection, file: Stamp, stop: threading.Event | None) -> bool:
        with database:
            database.execute(
                "INSERT OR IGNORE INTO files (name, inode, offset, head) VALUES (?, ?, 0, x'')",
                (file.name, file.inode),
            )
        number, offset = database.execute(
            "SELECT id, offset FROM files WHERE name = ?", (file.name,)
        ).fetchone()
        if offset >= file.size:
            return True
        began, first = time.perf_counter(), offset
        lines = JsonLines(self.run / file.name).lines(offset)
        while found := [(at, len(line) + 1, row_of(line)) for at, line in islice(lines, BATCH)]:
            if stop is not None and stop.is_set():
                return False
            end = self._write(database, number, found, self._head(file, found[0][0]))
            self._speed = (end - first) / max(1e-6, time.perf_counter() - began)
        return True

    def _head(self, file: Stamp, offset: int) -> bytes | None:
        """What the first line begins with, if that is the one at ``offset``."""
        return None if offset else JsonLines(self.run / file.name).at(0, HEAD).split(b"\n")[0]

    def _write(
        self,
        database: sqlite3.Connection,
        number: int,
        batch: Sequence[tuple[int, int, Row | None]],
        head: bytes | None,
    ) -> int:
        """Add a batch of lines; return where it ends in the file."""
        (last,) = database.execute("SELECT coalesce(max(id), 0) FROM trajectories").fetchone()
        first, rows, texts = last, [], []
        tools: dict[tuple[str, int | None, str], list[int]] = {}
        for offset, length, found in batch:
            if found is None:
                continue
            last += 1
            rows.append((last, *found.values, number, offset, length))
            texts.append((last, found.text))
            for name, failed in found.tools:
                counts = tools.setdefault((found.label, found.step, name), [0, 0])
                counts[0] += 1
                counts[1] += failed
        end = batch[-1][0] + batch[-1][1]
        with database:
            _insert(database, "trajectories", rows)
            _insert(database, "texts", texts)
            database.execute(_WORDS, (first,))
            database.executemany(_COUNT_TOOL, [(*key, *counts) for key, counts in tools.items()])
            database.execute(
                "UPDATE files SET offset = ?, head = coalesce(?, head) WHERE id = ?", (end, head, number)
            )
        return end

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            database.close()
            self._remove()
            return self._open()
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            database.executescript(f"{_TABLES}PRAGMA user_version = {VERSION};")
        return database

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm"):
            Path(f"{self.path}{ending}").unlink(missing_ok=True)


def _insert(database: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        one = f"({','.join('?' * len(some[0]))})"
        values = ",".join([one] * len(some))
        database.execute(f"INSERT INTO {table} VALUES {values}", [*chain.from_iterable(some)])  # noqa: S608
