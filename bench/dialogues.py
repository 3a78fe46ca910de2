"""How fast 100,000 dialogues are indexed and searched: ``python -m bench.dialogues [--json]``."""

from __future__ import annotations

import random
import re
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import Report, Row, Target, publish
from grpo_host.dialogues import DialogueDatabase
from grpo_host.models.sentence import embedder_available, sentence_embedder

DIALOGUES, QUERIES, K = 100_000, 300, 5
EMBEDDED = 512
PROMPT = 50.0
"""Milliseconds: nothing beside the seconds that a model's answer takes."""

OPENINGS = ["Hi,", "Hello,", "Please help:", "I think", "Since yesterday", "Good morning,", "Sorry, but", ""]
SUBJECTS = [
    "order",
    "parcel",
    "refund",
    "invoice",
    "subscription",
    "account",
    "password",
    "router",
    "phone",
    "laptop",
    "printer",
    "app",
    "card",
]
TROUBLES = [
    "never arrived",
    "was damaged",
    "is late",
    "shows an error",
    "does not start",
    "was charged twice",
    "is too slow",
    "keeps crashing",
    "was sent to the wrong address",
    "cannot be opened",
    "is locked",
    "makes a noise",
]
ENDINGS = [
    "What can I do?",
    "Can you help me?",
    "I need it for",
    "It is about",
    "Please call me about",
    "It has",
]


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Dialogues of few common words and, as in life, some rare ones: names, numbers, places."""
    generator = random.Random(seed)
    names = [
        "".join(generator.choices("bdfgklmnprstvz", k=2))
        + "".join(generator.choices("aeiou", k=2))
        + str(n % 97)
        for n in range(20_000)
    ]
    weights = [1 / (rank + 1) for rank in range(len(names))]
    made = []
    for n in range(count):
        subject = generator.choice(SUBJECTS)
        rare = " ".join(generator.choices(names, weights, k=4))
        text = f"{generator.choice(OPENINGS)} my {subject} {generator.choice(TROUBLES)}. {generator.choice(ENDINGS)} {rare}"
        made.append(
            {
                "id": str(n),
                "content": text,
                "category": subject,
                "expected_response": f"I'll check your {subject}.",
            }
        )
    return made


class RandomVectors:
    """As long as those of all-MiniLM-L6-v2; random, since brute force takes the same time for any."""

    name = "random-384"
    dimensions = 384

    def embed(self, texts: Sequence[str]) -> Any:
        generators = (np.random.default_rng(zlib.crc32(text.encode())) for text in texts)
        vectors = np.stack([generator.standard_normal(384, dtype=np.float32) for generator in generators])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def percentiles(search: Callable[[str], Any], queries: Sequence[str]) -> tuple[float, float]:
    """Milliseconds of the median and of the slowest hundredth of ``queries``."""
    taken = [timed(lambda query=query: search(query))[0] * 1000 for query in queries]  # type: ignore[misc]
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 99))


class PlainFts:
    """SQLite FTS5 as it comes: all words of the query, all matches ranked."""

    def __init__(self, texts: Sequence[dict[str, str]]) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5 (content, tokenize = 'porter unicode61')"
        )
        self.connection.executemany("INSERT INTO words VALUES (?)", ([row["content"]] for row in texts))

    def search(self, query: str, k: int = K) -> list[int]:
        wanted = " OR ".join(f'"{word}"' for word in set(re.findall(r"\w+", query.lower())))
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        return [n - 1 for (n,) in self.connection.execute(sql, (wanted, k))]


def like_scan(connection: sqlite3.Connection, query: str) -> list[Any]:
    """Rows ordered by how many of the query's words they contain, with LIKE."""
    found = sorted(set(re.findall(r"\w+", query.lower())))
    score = " + ".join("(content LIKE ?)" for _ in found)
    sql = f"SELECT rowid, {score} AS score FROM words ORDER BY score DESC LIMIT {K}"
    return connection.execute(sql, [f"%{word}%" for word in found]).fetchall()


def measure() -> Report:
    """All figures, one after another in one process."""
    texts = rows(DIALOGUES)
    queries = [row["content"] for row in rows(QUERIES, seed=1)]
    built, database = timed(lambda: DialogueDatabase(texts, embedder=RandomVectors()))
    plain_built, plain = timed(lambda: PlainFts(texts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dialogues.db"
        created, kept = timed(lambda: DialogueDatabase.create(path, texts, embedder=RandomVectors()))
        kept.embed()
        kept.close()
        size = path.stat().st_size / 2**20
        opened, kept = timed(lambda: DialogueDatabase(path, embedder=RandomVectors()))
        first, _ = timed(lambda: kept.search(queries[0], K, mode="meaning"))
        kept.close()
    database.embed()
    vectors = RandomVectors().embed([row["content"] for row in texts[:DIALOGUES]])
    halves = vectors.astype(np.float16)
    words = percentiles(lambda q: database.search(q, K, mode="words"), queries)
    in_category = percentiles(lambda q: database.search(q, K, mode="words", category=SUBJECTS[0]), queries)
    fts = percentiles(plain.search, queries[:100])
    like = percentiles(lambda q: like_scan(plain.connection, q), queries[:20])
    meaning = percentiles(lambda q: database.search(q, K, mode="meaning", min_similarity=-1), queries)
    both = percentiles(lambda q: database.search(q, K), queries)
    product = percentiles(lambda q: vectors @ vectors[0], queries[:100])
    half = percentiles(lambda q: halves @ halves[0], queries[:5])
    agreed = agreement(database, plain, queries[:60])
    table = [
        Row("index 100,000 dialogues in memory", built, "s", built / plain_built, "plain FTS5"),
        Row("plain FTS5, contents alone", plain_built, "s"),
        Row("make a file of them", created, "s", created / plain_built, "plain FTS5"),
        Row("open that file", opened * 1000, "ms", None, "", Target("≤", 100)),
        Row("first search by meaning of an opened file", first, "s"),
        *latencies("search by words", words, fts[0], "plain FTS5", PROMPT),
        *latencies(
            f"search by words in one of {len(SUBJECTS)} categories", in_category, fts[0], "plain FTS5", PROMPT
        ),
        *latencies("plain FTS5, all matches ranked", fts),
        *latencies("scan with LIKE", like, fts[0], "plain FTS5"),
        Row("first five of plain FTS5 among our first five", agreed * 100, "%"),
        *latencies(
            "search by meaning, vectors of the query not counted",
            meaning,
            product[0],
            "the bare product",
            PROMPT,
        ),
        *latencies("matrix-vector product, float32", product),
        *latencies("matrix-vector product, float16", half),
        *latencies("search by both", both, None, "", 2 * PROMPT),
        *model_rows(queries),
    ]
    return Report(
        "Search in 100,000 dialogues",
        f"{DIALOGUES:,} generated dialogues of about 15 words, {QUERIES} queries like them, {K} results. Plain FTS5 "
        "and LIKE run in SQLite in memory; the product is numpy's, one query against 100,000 vectors of 384.",
        table,
        [
            f"The file takes {size:.0f} MiB, of which the vectors in half precision are 73.",
            "Plain FTS5 ranks every row that has any word of the query, and most have one; ours ranks 3,000 rows around "
            "the rarest words.",
            "numpy has no float16 product: vectors are kept in half precision on disk and in single precision in memory.",
        ],
    )


def latencies(
    name: str, taken: tuple[float, float], base: float | None = None, to: str = "", bound: float | None = None
) -> list[Row]:
    """Two rows; the target is on the slowest hundredth."""
    target = None if bound is None else Target("≤", bound)
    return [
        Row(f"{name}, p50", taken[0], "ms", taken[0] / base if base else None, to if base else ""),
        Row(f"{name}, p99", taken[1], "ms", None, "", target),
    ]


def agreement(database: DialogueDatabase, plain: PlainFts, queries: Sequence[str]) -> float:
    """The share of plain FTS5's first results that are among ours."""
    shared = 0
    for query in queries:
        ours = {int(dialogue.id) for dialogue in database.search(query, K, mode="words")}
        shared += len(ours & set(plain.search(query)))
    return shared / (K * len(queries))


def model_rows(queries: Sequence[str]) -> list[Row]:
    """What the sentence model itself takes, where it is installed."""
    if not embedder_available():
        return []
    embedder = sentence_embedder()
    embedder.embed(["Hello"])
    one = percentiles(lambda query: embedder.embed([query]), queries[:100])
    texts = [row["content"] for row in rows(EMBEDDED, seed=2)]
    bulk, _ = timed(lambda: embedder.embed(texts))
    return [
        *latencies("all-MiniLM-L6-v2, vector of one query", one),
        Row("all-MiniLM-L6-v2, dialogues embedded", EMBEDDED / bulk, "a second"),
    ]


if __name__ == "__main__":
    publish(measure())
