"""A cache in one SQLite file, for the processes of one machine and for their next start."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from filelock import FileLock

from grpo_host.cache.statistics import CacheStatistics, Counts
from grpo_host.cache.values import Held, JsonCache, checked_limit, checked_ttl
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import ConfigError

T = TypeVar("T")

logger = logging.getLogger("grpo_host.cache")

APPLICATION_ID = 0x67727063
"""Marks a file as a cache of this form (PRAGMA application_id): another form has another number."""

ENTRY_BYTES = 100
"""About what an entry takes in the file besides its key and value."""

FRESH_SECONDS = 60.0
"""An entry's time of use is written at most this often, so that reading stays reading."""

SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entry (
  key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL, size INTEGER NOT NULL,
  expires REAL, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS entry_used ON entry (used);
CREATE INDEX IF NOT EXISTS entry_expires ON entry (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), entries INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO total VALUES (0, 0, 0);
CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entry BEGIN
  UPDATE total SET entries = entries + 1, bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS entry_gone AFTER DELETE ON entry BEGIN
  UPDATE total SET entries = entries - 1, bytes = bytes - OLD.size; END;
CREATE TRIGGER IF NOT EXISTS entry_changed AFTER UPDATE OF size ON entry BEGIN
  UPDATE total SET bytes = bytes - OLD.size + NEW.size; END;
PRAGMA application_id = {APPLICATION_ID};
COMMIT;
"""  # noqa: S608 -- a constant

STORE = """
INSERT INTO entry (key, value, sum, size, expires, used) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  value = excluded.value, sum = excluded.sum, size = excluded.size, expires = excluded.expires,
  used = excluded.used
"""


class DiskCache(JsonCache):
    """A cache in a SQLite file; evicts what was used least recently, and what is older than its ``ttl``.

    It may be lost at any time and never breaks its caller. A damaged file is set aside (as
    ``<name>.damaged``) and a new one begins; with a full disk or a locked file, a read is a miss
    and a write does nothing. Each is counted and logged as a warning. Only opening can fail: if the
    file cannot be opened, or is not a cache.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_entries: int = 1_000_000,
        max_bytes: int = 2**30,
        ttl: float | None = 30 * 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = expanded(path)
        self._max_entries = checked_limit("max_entries", max_entries)
        self._max_bytes = checked_limit("max_bytes", max_bytes)
        self.ttl = checked_ttl(ttl)
        self._clock = clock
        self._counts = Counts()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._file = 0
        try:
            self._connected()
        except sqlite3.Error as problem:
            raise ConfigError(_cannot_open(self.path, problem)) from problem
        except OSError as problem:
            raise ConfigError(f"cache {self.path}: {problem}. Choose a path that can be written") from problem

    def find(self, key: str) -> Held | None:
        held = self._attempt(lambda connection: self._find(connection, key), None)
        if held is None:
            self._counts.misses += 1
        else:
            self._counts.hits += 1
        return held

    def keep(self, key: str, held: Held) -> None:
        self._counts.sets += 1
        size = len(held.data) + len(key.encode()) + ENTRY_BYTES
        if size > self._max_bytes:
            self._counts.refused += 1
            self.delete(key)  # the old value is out of date
            return
        now = self._clock()
        expires = None if held.seconds is None else now + held.seconds

        def store(connection: sqlite3.Connection) -> None:
            with connection:  # commits, or rolls back
                # The write lock at once: two that read first and write then would refuse each other.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(STORE, (key, held.data, crc32(held.data), size, expires, now))
                self._counts.evictions += self._make_room(connection, now)

        self._attempt(store, None)

    def delete(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        self._attempt(lambda connection: connection.execute("DELETE FROM entry WHERE key = ?", (key,)), None)

    def clear(self) -> None:
        """Forget everything, for all processes."""
        self._attempt(lambda connection: connection.execute("DELETE FROM entry"), None)

    def statistics(self) -> CacheStatistics:
        """What this object has seen, and what the file holds (of all processes, expired included)."""
        query = "SELECT entries, bytes FROM total"
        entries, size = self._attempt(lambda connection: connection.execute(query).fetchone(), (0, 0))
        return CacheStatistics.of(self._counts, entries=entries, size=size)

    def close(self) -> None:
        """Close the file. Using the cache opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _find(self, connection: sqlite3.Connection, key: str) -> Held | None:
        query = "SELECT value, sum, expires, used FROM entry WHERE key = ?"
        row = connection.execute(query, (key,)).fetchone()
        now = self._clock()
        if row is None:
            return None
        data, checksum, expires, used = row
        if expires is not None and expires <= now:
            return None
        if (
            not isinstance(data, bytes) or crc32(data) != checksum
        ):  # SQLite notices damage to its own structure only
            raise _DamagedValueError("a value is not what was written")
        if now - used > FRESH_SECONDS:
            connection.execute("UPDATE entry SET used = ? WHERE key = ?", (now, key))
        return Held(data, None if expires is None else expires - now)

    def _make_room(self, connection: sqlite3.Connection, now: float) -> int:
        """Drop what has expired and then the least recently used; how many of the latter."""
        dropped = 0
        while True:
            entries, size = connection.execute("SELECT entries, bytes FROM total").fetchone()
            if entries <= self._max_entries and size <= self._max_bytes:
                return dropped
            if connection.execute("DELETE FROM entry WHERE expires <= ?", (now,)).rowcount:
                continue
            oldest = "SELECT rowid FROM entry ORDER BY used, rowid LIMIT ?"
            # A sixty-fourth at a time: one by one would search the index for each.
            dropped += connection.execute(
                f"DELETE FROM entry WHERE rowid IN ({oldest})",  # noqa: S608 -- a constant
                (max(1, entries // 64),),
            ).rowcount

    def _attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """``work``'s result; ``otherwise``, with a warning, if the file does not let it."""
        if self._process != os.getpid():  # after a fork: the connection and a held lock are the parent's
            _inherited.append(self._connection)
            self._connection, self._lock, self._process = None, threading.RLock(), os.getpid()
        with self._lock:
            try:
                return work(self._connected())
            except sqlite3.Error as problem:
                self._counts.errors += 1
                if _is_damage(problem):
                    self._begin_anew(problem)
                else:
                    logger.warning("cache %s: %s; going on without it", self.path, problem)
            except OSError as problem:
                self._counts.errors += 1
                logger.warning("cache %s: %s; going on without it", self.path, problem)
        return otherwise

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opening():
                try:
                    self._connection = _open(self.path)
                except sqlite3.Error as problem:
                    if not _is_damage(problem) or not _was_cache(self.path):
                        raise
                    self._set_aside(problem)
                    self._connection = _open(self.path)
                self._file = self.path.stat().st_ino
        return self._connection

    def _begin_anew(self, problem: sqlite3.Error) -> None:
        self.close()
        try:
            with self._opening():
                # Another process may have made a new file already.
                if self.path.exists() and self.path.stat().st_ino == self._file:
                    self._set_aside(problem)
        except OSError as failure:
            logger.warning("cache %s is damaged and cannot be set aside: %s", self.path, failure)

    def _set_aside(self, problem: sqlite3.Error) -> None:
        damaged = self.path.with_name(f"{self.path.name}.damaged")
        logger.warning(
            "cache %s is damaged (%s): set aside as %s, beginning anew", self.path, problem, damaged
        )
        for ending in ("-wal", "-shm"):  # they would be replayed into the new file
            Path(f"{self.path}{ending}").unlink(missing_ok=True)
        self.path.replace(damaged)

    def _opening(self) -> FileLock:
        """Lock the file's name, so that nobody opens it while another process sets it aside."""
        return FileLock(f"{self.path}.lock", timeout=10)


_inherited: list[sqlite3.Connection | None] = []
"""Connections of a parent process: closing one here could harm the parent's, so they are kept."""


class _DamagedValueError(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        if mark != APPLICATION_ID:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if mark or tables:
                raise ConfigError(
                    f"cache {path}: this is another program's database, or another version's. "
                    "Choose another path, or delete it if it is not needed"
                )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_damage(problem: sqlite3.Error) -> bool:
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _was_cache(path: Path) -> bool:
    """Whether the header still says that this is ours; SQLite keeps the mark at byte 68."""
    with path.open("rb") as file:
        header = file.read(100)
    return header.startswith(b"SQLite format 3\0") and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _cannot_open(path: Path, problem: sqlite3.Error) -> str:
    if _is_damage(problem):
        return f"cache {path}: this file is not a cache ({problem}). Choose another path, or delete it"
    return f"cache {path}: {problem}. Choose a path that can be written"
