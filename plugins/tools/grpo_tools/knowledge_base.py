"""The knowledge-base tool: looks up passages of local documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ECHOED = 60
"""Characters of a query that are repeated to the model."""


def knowledge_base_tool(*, path: str | Path, top_k: int = 3, snippet_words: int = 48) -> Callable[[str], str]:
    """A search over the documents at ``path``: a folder of .md and .txt files, or a .jsonl file.

    The ``top_k`` best passages are returned, each
    cut to ``snippet_words`` around what was found. The index is built once a process and shared
    until a file changes.

    Raises ``FileNotFoundError`` if nothing is at ``path``, ``ValueError`` if it holds no
    document or a line of the .jsonl file is not one of ``{"id", "title", "text"}``.
    """
    from grpo_tools.passages import LONGEST_SNIPPET, index_of

    if top_k < 1 or not 1 <= snippet_words <= LONGEST_SNIPPET:
        raise ValueError(
            f"knowledge_base: top_k is {top_k} and snippet_words {snippet_words}; "
            f"use at least 1, and 1 to {LONGEST_SNIPPET}"
        )
    index = index_of(path)

    def knowledge_base(query: str) -> str:
        """Search the knowledge base and get the passages that match best.

        Args:
            query: A few words to search for.
        """
        found = index.search(query, top_k, snippet_words)
        if not found:
            return f"Nothing found for: {query[:ECHOED]}"
        return "\n".join(f"[{rank}] {title}: {text}" for rank, (title, text) in enumerate(found, start=1))

    return knowledge_base
