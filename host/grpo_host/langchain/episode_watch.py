"""What LangChain tells of the app in an episode: whose model call begins, and which tools run."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage

from grpo_host.agents.model_calls import ModelCalls
from grpo_host.langchain.source import BEGUN
from grpo_sdk.trajectory import ToolRun


class EpisodeWatch(BaseCallbackHandler):
    """Keeps the metadata of a model's run where its answer is made, and adds a ``ToolRun`` to the turn of
    ``calls`` whose answer called the tool."""

    run_inline = True  # in the context of the call

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls
        self._running: dict[UUID, tuple[str, str, float]] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        BEGUN.set(metadata or {})

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        call_id = kwargs.get("tool_call_id")
        if call_id in self._calls.asked:
            name = str((serialized or {}).get("name", ""))
            self._running[run_id] = (name, call_id, time.perf_counter())

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        failed = isinstance(output, ToolMessage) and output.status == "error"
        self._note(run_id, output.text[:500] if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._note(run_id, f"{type(error).__name__}: {error}"[:500])

    def _note(self, run_id: UUID, error: str | None) -> None:
        if (known := self._running.pop(run_id, None)) is None:
            return  # no model asked for it
        name, call_id, started = known
        run = ToolRun(name, call_id, time.perf_counter() - started, error)
        self._calls.asked[call_id].tools.append(run)
