"""The vectors of all dialogues, searched by brute force: at 100,000 rows one matrix-vector product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from grpo_host.dialogues.store import Store
from grpo_sdk.embedder import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1024
"""Rows that are embedded, and stored, at a time: what was stored is not done again."""


class VectorIndex:
    """Vectors in single precision in memory, in half precision beside the rows of a file. Thread-safe."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder
        self._lock = Lock()
        self._vectors: NDArray[Any] | None = None

    def missing(self) -> int:
        """How many rows have no vector yet."""
        with self._lock:
            return len(self._store) - len(self._load())

    def update(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Embed the rows that have no vector; ``progress(done, of)`` is called after each block."""
        import numpy as np

        with self._lock:
            vectors = self._load()
            total = len(self._store)
            blocks = [vectors]
            done = len(vectors)
            while texts := self._store.contents(done, BLOCK):
                block = self._embedder.embed(texts)
                if self._store.persistent:
                    self._store.write_vectors(self._embedder.name, done, block)
                blocks.append(block)
                done += len(texts)
                if progress:
                    progress(done, max(done, total))
            if len(blocks) > 1:
                self._vectors = np.concatenate(blocks)

    def search(
        self, query: str, k: int, *, rows: Sequence[int] | None = None, min_similarity: float
    ) -> list[tuple[int, float]]:
        """The nearest rows with their cosine similarity, nearest first; ``rows``: only of these."""
        import numpy as np

        with self._lock:
            vectors = self._load()
        wanted = self._embedder.embed([query])[0]
        numbers = np.arange(1, len(vectors) + 1) if rows is None else np.asarray(rows, dtype=np.int64)
        numbers = numbers[numbers <= len(vectors)]
        scores = (vectors if rows is None else vectors[numbers - 1]) @ wanted
        best = np.argpartition(-scores, k - 1)[:k] if len(scores) > k else np.arange(len(scores))
        best = best[np.lexsort((numbers[best], -scores[best]))]
        return [(int(numbers[i]), float(scores[i])) for i in best if scores[i] >= min_similarity]

    def _load(self) -> NDArray[Any]:
        """The vectors so far, those that another process has stored included."""
        import numpy as np

        size = self._embedder.dimensions
        vectors = self._vectors
        if vectors is None:
            vectors = np.zeros((0, size), np.float32)
        if self._store.path is not None and len(vectors) < len(self._store):
            stored = self._store.read_vectors(self._embedder.name, len(vectors), size)
            if len(stored):
                vectors = np.concatenate([vectors, stored])
        self._vectors = vectors
        return vectors
