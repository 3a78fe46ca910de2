"""The database of example dialogues: create it, search it, add to it, use it as demonstrations."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal

from grpo_host.dialogues.meaning import VectorIndex
from grpo_host.dialogues.record import Dialogue
from grpo_host.dialogues.sources import Row, Source, is_sqlite, read_rows
from grpo_host.dialogues.store import Store, is_own
from grpo_host.models.sentence import embedder_available, sentence_embedder
from grpo_host.utils.paths import expanded
from grpo_sdk.embedder import Embedder
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message

logger = logging.getLogger(__name__)

Mode = Literal["auto", "words", "meaning"]
MODES: tuple[Mode, ...] = ("auto", "words", "meaning")


class DialogueDatabase:
    """Example dialogues, from a list, a JSONL file or a SQLite file. Thread-safe.

    A row has ``content`` (what the user says) and ``expected_response``, or ``messages``; ``id``,
    ``category`` and ``metadata`` if wanted. A SQLite file is one that ``create`` made, or any
    with a table ``dialogues`` of such columns, which is read into memory. What is added stays only
    in a file that ``create`` made.
    """

    EMBEDDED_AT_ONCE = 2000
    """With ``mode="auto"``, a search first embeds up to this many new dialogues; for more, call ``embed``."""

    def __init__(self, source: Source = (), *, embedder: Embedder | Literal["auto"] | None = "auto") -> None:
        """``embedder``: for search by meaning; "auto": the sentence model if installed, None: never.

        Raises ``ConfigError`` that says which row is wrong.
        """
        if isinstance(source, str | Path) and is_sqlite(expanded(source)) and is_own(expanded(source)):
            self._store = Store(expanded(source))
        else:
            self._store = Store()
            self._store.add(read_rows(source))
        self._embedder = embedder
        self._index: VectorIndex | None = None
        self._lock = Lock()
        self._warned = False

    @classmethod
    def create(
        cls, path: str | Path, source: Source = (), *, embedder: Embedder | Literal["auto"] | None = "auto"
    ) -> DialogueDatabase:
        """A new SQLite file ``path`` with the rows of ``source``.

        Raises ``ConfigError`` if there is such a file, or a row is wrong; then no file is left.
        """
        path = expanded(path)
        if path.exists():
            raise ConfigError(
                f"{path}: there is such a file already. Open it: DialogueDatabase({str(path)!r})"
            )
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            store = Store(partial, create=True)
            try:
                store.add(read_rows(source))
            finally:
                store.close()
            partial.replace(path)
        except OSError as problem:
            raise ConfigError(f"{path}: cannot be written: {problem.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)
        return cls(path, embedder=embedder)

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Dialogue]:
        return self._store.scan()

    def __enter__(self) -> DialogueDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def get(self, id_: str) -> Dialogue | None:
        """The dialogue of this id."""
        return self._store.by_id(id_)

    def categories(self) -> list[str]:
        """The categories that there are, in alphabetical order."""
        return self._store.categories()

    def add(self, rows: Row | Iterable[Row]) -> int:
        """Add one dialogue or several: all of them, or none if one is wrong (``ConfigError``)."""
        several = [rows] if isinstance(rows, Mapping) else rows
        return self._store.add((f"dialogue {index} of those added", row) for index, row in enumerate(several))

    def embed(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make the vectors that search by meaning needs now; a file keeps them.

        ``progress(done, of)`` is called now and then. Raises ``MissingExtraError`` if no sentence
        model is installed.
        """
        self._meaning().update(progress)

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        mode: Mode = "auto",
        category: str | None = None,
        min_similarity: float = 0.2,
    ) -> list[Dialogue]:
        """The at most ``k`` dialogues that are most like ``query``, best first; any text is a query.

        ``words``: they share words with it (bm25). ``meaning``: their vectors lie nearest, with a
        cosine of at least ``min_similarity``. ``auto``: both rankings, merged, if an embedder is
        given or the sentence model installed; else words only. Raises ``MissingExtraError`` for
        ``meaning`` if no model is installed.
        """
        if mode not in MODES:
            raise ValueError(f'no mode "{mode}"; modes are: {", ".join(MODES)}')
        if k < 1 or not query.strip():
            return []
        # Deeper than k: a row that both find in the middle beats one that one of them finds first.
        depth = max(30, 2 * k) if mode == "auto" else k
        by_words = self._store.match(query, depth, category) if mode != "meaning" else []
        if mode == "words" or (mode == "auto" and not self._can_embed()):
            return self._store.fetch(by_words[:k])
        index = self._meaning()
        if mode == "meaning" or index.missing():
            index.update()
        rows = self._store.numbers_of(category) if category else None
        near = index.search(query, depth, rows=rows, min_similarity=min_similarity)
        by_meaning = [n for n, _ in near]
        return self._store.fetch(merge_ranks([by_meaning, by_words])[:k])

    def demonstrations(self, category: str | None = None) -> list[list[Message]]:
        """The dialogues that show an answer, as conversations to imitate."""
        return [d.conversation for d in self._store.scan(category) if d.can_be_imitated]

    def _can_embed(self) -> bool:
        """Whether a search can use vectors without making its caller wait for minutes."""
        if self._embedder is None or (self._embedder == "auto" and not embedder_available()):
            return False
        missing = self._meaning().missing()
        if missing <= self.EMBEDDED_AT_ONCE:
            return True
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d dialogues have no vectors yet: searching by words alone. Call embed() once", missing
            )
        return False

    def _meaning(self) -> VectorIndex:
        with self._lock:
            if self._index is None:
                if self._embedder is None:
                    raise ConfigError(
                        "this DialogueDatabase was made with embedder=None, so it cannot search by meaning"
                    )
                chosen = sentence_embedder() if self._embedder == "auto" else self._embedder
                self._index = VectorIndex(self._store, chosen)
            return self._index


def read_demonstrations(source: Source) -> list[Dialogue]:
    """The dialogues of ``source`` that show an answer. Raises ``ConfigError`` if there are none."""
    with DialogueDatabase(source, embedder=None) as database:
        found = [dialogue for dialogue in database if dialogue.can_be_imitated]
        if not found:
            raise ConfigError(
                f"{source}: none of its {len(database)} dialogues shows what to answer. "
                "Give them an expected_response, or messages of an assistant"
            )
    return found


def merge_ranks(rankings: Iterable[list[int]], *, damping: int = 60) -> list[int]:
    """Reciprocal rank fusion (Cormack et al., 2009): each ranking gives 1 / (damping + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (damping + rank)
    return sorted(scores, key=lambda item: -scores[item])
