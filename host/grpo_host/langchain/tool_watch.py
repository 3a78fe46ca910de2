"""Notes which tools an app runs, at the model call that asked for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage

from grpo_sdk.trajectory import ToolRun, Turn


class ToolWatch(BaseCallbackHandler):
    """Adds a ``ToolRun`` to the turn whose answer called the tool; LangChain tells it.

    ``asked`` has that turn by the id of the call; another one, such as a tool that no model called, is not
    noted.
    """

    run_inline = True  # in the order in which things happen

    def __init__(self, asked: Mapping[str, Turn]) -> None:
        self._asked = asked
        self._running: dict[UUID, tuple[Turn, str, str, float]] = {}

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._begin_tool(run_id, serialized, kwargs, self._asked)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        failed = isinstance(output, ToolMessage) and output.status == "error"
        self._end_tool(run_id, output.text[:500] if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end_tool(run_id, f"{type(error).__name__}: {error}"[:500])

    def _begin_tool(
        self, run_id: UUID, serialized: Any, told: Mapping[str, Any], asked: Mapping[str, Turn]
    ) -> None:
        call_id: Any = told.get("tool_call_id")
        if call_id in asked:
            name = str((serialized or {}).get("name", ""))
            self._running[run_id] = (asked[call_id], name, call_id, time.perf_counter())

    def _end_tool(self, run_id: UUID, error: str | None) -> None:
        if known := self._running.pop(run_id, None):
            turn, name, call_id, started = known
            turn.tools.append(ToolRun(name, call_id, time.perf_counter() - started, error))
