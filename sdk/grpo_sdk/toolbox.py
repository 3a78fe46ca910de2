"""The tools of one episode or conversation, run within limits; a failure becomes an answer to the model."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from grpo_sdk.deadline import Deadline
from grpo_sdk.messages import Message, ToolCall, ToolSchema, tool_result, traceback_text, whole_text
from grpo_sdk.tool_results import tool_text
from grpo_sdk.tools import (
    MALFORMED_CALL,
    BoundTool,
    HandledToolError,
    ToolCallError,
    ToolLike,
    ToolLimits,
    bind,
)
from grpo_sdk.trajectory import ToolRun

logger = logging.getLogger(__name__)
_logged: set[tuple[object, ...]] = set()

Around: TypeAlias = Callable[[ToolCall], AbstractContextManager[Callable[[Message, ToolRun], None]]]
"""Makes the context in which a call runs; what the context yields is called with the answer and record."""

Execute: TypeAlias = Callable[[ToolCall], Awaitable[tuple[Message, ToolRun]]]
"""Executes a call within limits."""


class Toolbox:
    """The tools of one episode or conversation, by name, run within ``limits``.

    ``around`` may watch each call, and ``through`` may answer it by executing it or otherwise.
    """

    def __init__(self, tools: Iterable[ToolLike] = (), limits: ToolLimits | None = None) -> None:
        self.limits = limits or ToolLimits()
        self.around: Around | None = None
        self.through: Callable[[ToolCall, Execute], Awaitable[tuple[Message, ToolRun]]] | None = None
        self._tools: dict[str, BoundTool] = {}
        for tool in tools:
            self.add(tool)

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def get(self, name: str) -> BoundTool | None:
        """The tool of this name, or None."""
        return self._tools.get(name)

    @property
    def names(self) -> list[str]:
        """Names of the tools, in the order given."""
        return list(self._tools)

    @property
    def schemas(self) -> list[ToolSchema]:
        """What the model is shown of each tool, in the order given."""
        return [tool.schema for tool in self._tools.values()]

    def add(self, tool: ToolLike, *, name: str | None = None) -> None:
        """Offer one more tool. Raises ``ValueError`` if its name is taken."""
        bound = bind(tool, name=name)
        if bound.name in self._tools:
            raise ValueError(f'two tools are called "{bound.name}"; rename one of them')
        self._tools[bound.name] = bound

    def extended(self, tools: Iterable[ToolLike]) -> Toolbox:
        """A toolbox with these tools and ``tools``; this one does not change."""
        more = Toolbox(limits=self.limits)
        more.around, more.through = self.around, self.through
        more._tools = dict(self._tools)
        for tool in tools:
            more.add(tool)
        return more

    async def run(self, calls: list[ToolCall]) -> list[tuple[Message, ToolRun]]:
        """Run ``calls`` side by side; one tool message and one record for each call, in their order.

        A failure (unknown tool, invalid arguments, exception, timeout) is a tool message that
        tells the model what was wrong. Only cancellation goes through.
        """
        if len(calls) == 1:
            return [await self._run(calls[0])]
        gate = asyncio.Semaphore(self.limits.parallel)

        async def gated(call: ToolCall) -> tuple[Message, ToolRun]:
            async with gate:
                return await self._run(call)

        return list(await asyncio.gather(*map(gated, calls)))

    async def _run(self, call: ToolCall) -> tuple[Message, ToolRun]:
        if self.around is None:
            return await self._answer(call)
        with self.around(call) as answered:
            message, record = await self._answer(call)
            answered(message, record)
            return message, record

    def _answer(self, call: ToolCall) -> Awaitable[tuple[Message, ToolRun]]:
        return self._execute(call) if self.through is None else self.through(call, self._execute)

    async def _execute(self, call: ToolCall) -> tuple[Message, ToolRun]:
        name = call["function"]["name"]
        started = time.perf_counter()
        error: str | None = None
        handled: str | None = None
        truncated = False
        try:
            if name == MALFORMED_CALL:
                raise ToolCallError(
                    'the call is not valid JSON of the form {"name": "...", "arguments": {...}}'
                )
            tool = self._tools.get(name)
            if tool is None:
                offered = ", ".join(self._tools) or "none"
                raise ToolCallError(f'no tool "{name}"; the tools are: {offered}')
            if tool.ready is not None:
                await tool.ready()
            with Deadline(self.limits.seconds):
                text = tool_text(await tool.run(_arguments(call)))
            if len(text) > self.limits.output_chars:
                cut = len(text) - self.limits.output_chars
                text = f"{text[: self.limits.output_chars]}\n[{cut} characters left out]"
                truncated = True
        except TimeoutError:
            error = f"no answer within {self.limits.seconds:g} s"
        except HandledToolError as problem:
            handled = error = str(problem)
        except ToolCallError as problem:
            error = str(problem)
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as problem:  # a Rust extension's panic, too
            error = f"{type(problem).__name__}: {problem}"[:500]
            _log_once(name, error, problem)
        if error is not None:
            error = whole_text(error)
            text = f"Error: {error}" if handled is None else error
        seconds = time.perf_counter() - started
        record = ToolRun(name, call["id"], seconds, error=error, truncated=truncated)
        return tool_result(call, text), record


def _log_once(name: str, error: str, problem: BaseException) -> None:
    """Log the traceback, which the model is not told: of the first of its kind; at level DEBUG, of all."""
    frames = traceback.extract_tb(problem.__traceback__)
    kind = (name, type(problem), frames[-1].filename, frames[-1].lineno)
    if kind not in _logged or logger.isEnabledFor(logging.DEBUG):
        _logged.add(kind)
        logger.warning('tool "%s": %s\n%s', name, whole_text(error), traceback_text(problem))


def _arguments(call: ToolCall) -> dict[str, Any]:
    text = call["function"]["arguments"]
    try:
        arguments = json.loads(text) if text.strip() else {}
    except ValueError as problem:
        raise ToolCallError(f"the arguments are not valid JSON: {problem}") from None
    if not isinstance(arguments, dict):
        raise ToolCallError("the arguments are not a JSON object")
    return arguments
