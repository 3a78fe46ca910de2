"""Dialogues in SQLite, in memory or in a file, with a full-text index (FTS5) over their words."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from grpo_host.dialogues.record import Dialogue, dialogue_of
from grpo_host.dialogues.sources import connect
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

APPLICATION_ID = 0x6772706F
"""``grpo``: what our files carry in their header."""
FORMAT = 1

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE dialogues (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL,
    category TEXT NOT NULL,
    expected_response TEXT NOT NULL,
    messages TEXT NOT NULL,
    metadata TEXT NOT NULL
);
CREATE INDEX dialogues_by_category ON dialogues (category);
CREATE VIRTUAL TABLE words USING fts5 (
    content, category, expected_response,
    content = 'dialogues', content_rowid = 'n', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TABLE vectors (
    embedder TEXT NOT NULL, n INTEGER NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (embedder, n)
);
"""
_COLUMNS = "id, content, category, expected_response, messages, metadata"
_RANK = "bm25(words, 1.0, 0.5, 0.3)"
"""What the user says counts most, what is answered least."""

MOST_WORDS = 16
"""How many words of a query are looked up."""
MOST_MATCHES = 3000
"""How many matches are ranked: bm25 takes some microseconds for each."""
_WORD = re.compile(r"\w+")


class Store:
    """Rows 1, 2, 3, …; rows are added and never changed. Thread-safe."""

    def __init__(self, path: Path | None = None, *, create: bool = False) -> None:
        """In memory, or in the file ``path``: an empty one, or one that this class made.

        Raises ``ConfigError`` if the file is of another format.
        """
        self.path = path
        self.lock = RLock()
        self._counts: dict[str, int] = {}
        self._counted_at = -1
        if path is None:
            self.writable = True
            self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        else:
            self.writable = create or os.access(path, os.W_OK)
            if create:
                path.touch()
            self._connection = connect(path, write=self.writable)
        if path is None or create:
            self._connection.executescript(_SCHEMA)
        else:
            self._check_format()

    def _check_format(self) -> None:
        try:
            version = self._one("PRAGMA user_version")
            len(self)
        except sqlite3.Error as problem:
            self._connection.close()
            raise ConfigError(f"{self.path}: this database of dialogues is damaged: {problem}") from None
        if version != FORMAT:
            self._connection.close()
            raise ConfigError(
                f"{self.path}: a database of dialogues in format {version}, and this version reads "
                f"format {FORMAT}. Make it anew with DialogueDatabase.create"
            )

    @property
    def persistent(self) -> bool:
        """Whether what is written survives this process."""
        return self.path is not None and self.writable

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._connection.close()

    def __len__(self) -> int:
        return int(self._one("SELECT coalesce(max(n), 0) FROM dialogues"))

    def add(self, rows: Iterable[tuple[str, Any]]) -> int:
        """Add ``rows``, each with its place: all, or none if one is wrong (``ConfigError``)."""
        if not self.writable:
            raise ConfigError(f"{self.path}: the file is not writable, so no dialogue can be added")
        with self.lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            first = len(self) + 1
            n = first
            for where, row in rows:
                self._insert(n, dialogue_of(row, where, default_id=f"dialogue-{n}"), where)
                n += 1
            if n - first > 1000:
                self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        return n - first

    def _insert(self, n: int, dialogue: Dialogue, where: str) -> None:
        texts = (dialogue.content, dialogue.category, dialogue.expected_response)
        messages = json.dumps(dialogue.messages, ensure_ascii=False)
        metadata = json.dumps(dialogue.metadata, ensure_ascii=False)
        try:
            self._connection.execute(
                f"INSERT INTO dialogues (n, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (n, dialogue.id, *texts, messages, metadata),
            )
        except sqlite3.IntegrityError:
            raise ConfigError(
                f'{where}: there is already a dialogue with the id "{dialogue.id}"; each needs its own'
            ) from None
        self._connection.execute(
            "INSERT INTO words (rowid, content, category, expected_response) VALUES (?, ?, ?, ?)", (n, *texts)
        )

    def fetch(self, numbers: Sequence[int]) -> list[Dialogue]:
        """The dialogues of these rows, in their order."""
        marks = ",".join("?" * len(numbers))
        found = {
            row[0]: _dialogue(row[1:])
            for row in self._all(f"SELECT n, {_COLUMNS} FROM dialogues WHERE n IN ({marks})", *numbers)  # noqa: S608
        }
        return [found[n] for n in numbers]

    def scan(self, category: str | None = None, *, block: int = 1000) -> Iterator[Dialogue]:
        """All dialogues, in the order in which they were added."""
        after = 0
        sql = f"SELECT n, {_COLUMNS} FROM dialogues WHERE n > ? AND ? IN (category, '') ORDER BY n LIMIT ?"  # noqa: S608
        while rows := self._all(sql, after, category or "", block):
            yield from (_dialogue(row[1:]) for row in rows)
            after = rows[-1][0]

    def by_id(self, id_: str) -> Dialogue | None:
        """The dialogue of this id."""
        rows = self._all(f"SELECT {_COLUMNS} FROM dialogues WHERE id = ?", id_)  # noqa: S608
        return _dialogue(rows[0]) if rows else None

    def categories(self) -> list[str]:
        """The categories that there are, in alphabetical order."""
        found = self._all("SELECT DISTINCT category FROM dialogues WHERE category <> '' ORDER BY category")
        return [category for (category,) in found]

    def numbers_of(self, category: str) -> list[int]:
        """The rows of ``category``."""
        return [n for (n,) in self._all("SELECT n FROM dialogues WHERE category = ? ORDER BY n", category)]

    def contents(self, after: int, limit: int) -> list[str]:
        """What users say in the rows behind ``after``."""
        sql = "SELECT content FROM dialogues WHERE n > ? ORDER BY n LIMIT ?"
        return [content for (content,) in self._all(sql, after, limit)]

    def match(self, query: str, k: int, category: str | None = None) -> list[int]:
        """The rows that share words with ``query``, best (bm25) first.

        Any text is a query: its words are looked up, all else is left out. Ranked are at most
        ``MOST_MATCHES`` rows around its rarest words; if all of its words are more common than
        that, those that have all of them come first.
        """
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[: 4 * MOST_WORDS]
        with self.lock:
            size = len(self)
            known = sorted((count, word) for word in words if (count := self._count(word, size)))[:MOST_WORDS]
            if not known:
                return []
            # What half of the rows say tells nothing, unless the query says nothing else.
            telling = [item for item in known if 2 * item[0] <= max(size, 20)] or known
            rare: list[str] = []
            total = 0
            for count, word in telling:
                if rare and total + count > MOST_MATCHES:
                    break
                rare.append(word)
                total += count
            names = [word for _, word in telling]
            found: list[int] = []
            if telling[0][0] > MOST_MATCHES and len(names) > 1:
                found = self._ranked(_all_of(names), k, category)
            if len(found) < k:
                wanted = _any_of(rare)
                if len(names) > len(rare):
                    # Found by the rare words, ranked by all.
                    wanted = f"({wanted}) AND ({_any_of(names)})"
                found += [n for n in self._ranked(wanted, k, category) if n not in found]
        return found[:k]

    def _ranked(self, expression: str, k: int, category: str | None) -> list[int]:
        # The + keeps SQLite from looking the words up again for each row of the category.
        chosen = " AND +rowid IN (SELECT n FROM dialogues WHERE category = ?)" if category else ""
        sql = (
            f"SELECT n FROM (SELECT rowid AS n, {_RANK} AS score FROM words WHERE words MATCH ?{chosen} "  # noqa: S608
            "LIMIT ?) ORDER BY score, n LIMIT ?"
        )
        values = [category] if category else []
        return [n for (n,) in self._all(sql, expression, *values, MOST_MATCHES, k)]

    def _count(self, word: str, size: int) -> int:
        """In how many rows ``word`` is."""
        if self._counted_at != size or len(self._counts) > 20_000:
            self._counts.clear()
            self._counted_at = size
        if word not in self._counts:
            self._counts[word] = self._one("SELECT count(*) FROM words WHERE words MATCH ?", _any_of([word]))
        return self._counts[word]

    def read_vectors(self, embedder: str, after: int, dimensions: int) -> NDArray[Any]:
        """Stored vectors of the rows behind ``after``, up to the first that has none."""
        import numpy as np

        sql = "SELECT n, vector FROM vectors WHERE embedder = ? AND n > ? ORDER BY n"
        rows = self._all(sql, embedder, after)
        whole = [blob for index, (n, blob) in enumerate(rows) if n == after + 1 + index]
        vectors = np.frombuffer(b"".join(whole), np.float16).reshape(len(whole), dimensions)
        return vectors.astype(np.float32)

    def write_vectors(self, embedder: str, after: int, vectors: NDArray[Any]) -> None:
        """Store the vectors of the rows behind ``after``, in half precision."""
        import numpy as np

        blobs = (vector.tobytes() for vector in vectors.astype(np.float16))
        with self.lock, self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors (embedder, n, vector) VALUES (?, ?, ?)",
                ((embedder, after + 1 + index, blob) for index, blob in enumerate(blobs)),
            )

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self.lock:
            return self._connection.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        return self._all(sql, *values)[0][0]


def is_own(path: Path) -> bool:
    """Whether the SQLite file ``path`` was made by ``Store``."""
    with path.open("rb") as file:
        head = file.read(72)
    return int.from_bytes(head[68:72], "big") == APPLICATION_ID


def _all_of(words: Sequence[str]) -> str:
    return " AND ".join(f'"{word}"' for word in words)


def _any_of(words: Sequence[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


def _dialogue(row: Sequence[Any]) -> Dialogue:
    id_, content, category, expected_response, messages, metadata = row
    return Dialogue(id_, content, category, expected_response, json.loads(messages), json.loads(metadata))
