"""An index of passages in memory: SQLite's full-text search over local documents."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

LONGEST_PASSAGE = 800
"""Characters; a document is cut at blank lines into passages of about this size."""
LONGEST_QUERY = 32
"""Words of a query that are searched for."""
LONGEST_SNIPPET = 64
"""Words; SQLite allows no more."""

_KINDS = (".md", ".txt")
_indexes: dict[tuple[str, int, int], PassageIndex] = {}
_lock = threading.Lock()


class PassageIndex:
    """Passages by relevance. Read-only once made; safe to search from many threads."""

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        """``documents`` are pairs of title and text."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(title, text, tokenize='porter unicode61')"
        )
        self._database.executemany(
            "INSERT INTO passages VALUES (?, ?)",
            ((title, passage) for title, text in documents for passage in _passages(text)),
        )
        self._database.commit()
        self._database.execute("PRAGMA query_only = ON")
        self.size: int = self._database.execute("SELECT count(*) FROM passages").fetchone()[0]

    def search(self, query: str, limit: int, length: int = 48) -> list[tuple[str, str]]:
        """Title and ``length`` words of the ``limit`` best passages that hold any word of ``query``."""
        # Quoted, a word is never an operator of FTS5's query language.
        terms = [f'"{word}"' for word in re.findall(r"[^\W_]+", query)[:LONGEST_QUERY]]
        if not terms:
            return []
        with self._lock:
            rows = self._database.execute(
                "SELECT title, snippet(passages, 1, '', '', '…', ?) FROM passages"
                " WHERE passages MATCH ?"
                " ORDER BY bm25(passages, 2.0, 1.0), rowid LIMIT ?",
                (length, " OR ".join(terms), limit),
            ).fetchall()
        return [(title, text) for title, text in rows]


def index_of(path: str | Path) -> PassageIndex:
    """The index of the documents at ``path``, made on first use and again when a file changed.

    Raises ``FileNotFoundError`` or ``ValueError``, naming the path.
    """
    files = _files(Path(path).expanduser())
    state = [file.stat() for file in files]
    key = (
        "\n".join(str(file.resolve()) for file in files),
        max(file.st_mtime_ns for file in state),
        sum(file.st_size for file in state),
    )
    with _lock:
        if key not in _indexes:
            index = PassageIndex(document for file in files for document in _documents(file))
            if not index.size:
                raise ValueError(f"knowledge_base: the documents at {path} are empty")
            _indexes[key] = index
        return _indexes[key]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _KINDS)
        if not files:
            raise ValueError(f"knowledge_base: no .md or .txt file in the folder {path}")
        return files
    if not path.exists():
        raise FileNotFoundError(
            f"knowledge_base: nothing at {path.absolute()}; "
            "path is a folder of .md and .txt files, or a .jsonl file"
        )
    if path.suffix.lower() not in (*_KINDS, ".jsonl"):
        raise ValueError(f"knowledge_base: {path} is neither a folder nor .jsonl, .md or .txt")
    return [path]


def _documents(file: Path) -> Iterator[tuple[str, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(f"knowledge_base: {file} is not UTF-8 text: {problem}") from None
    if file.suffix.lower() != ".jsonl":
        heading = re.search(r"^#\s+(.+)$", text, re.MULTILINE)
        if heading:
            text = text[: heading.start()] + text[heading.end() :]
        yield (heading[1].strip() if heading else file.stem.replace("_", " ")), text
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _document(line, f"{file}:{number}")


def _document(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except ValueError as problem:
        raise ValueError(f"knowledge_base: {where}: not JSON: {problem}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ValueError(
            f'knowledge_base: {where}: a line is {{"id": …, "title": …, "text": "…"}}, '
            "and text must be a string"
        )
    return str(entry.get("title") or entry.get("id") or "untitled"), entry["text"]


def _passages(text: str) -> Iterator[str]:
    passage = ""
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if passage and len(passage) + len(words) > LONGEST_PASSAGE:
            yield passage
            passage = ""
        passage = f"{passage} {words}".strip()
    if passage:
        yield passage
