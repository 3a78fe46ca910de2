"""Notes, in an episode, the metadata of an app's model calls and the tools that it runs."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage

from grpo_host.langchain.source import BEGUN
from grpo_host.langchain.tool_watch import ToolWatch


class EpisodeWatch(ToolWatch):
    """Also keeps the metadata of a model's run where its answer is made."""

    run_inline = True  # in the context of the call
    ignore_chain = ignore_llm = ignore_retriever = ignore_custom_event = True  # each event costs CPU

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        BEGUN.set(metadata or {})
