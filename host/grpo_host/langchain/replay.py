"""Plays a demonstration through an app: its model says, and its tools answer, what the demonstration has.

So the tokens are those of an episode, with the app's own prompts and tools, and nothing is really done.
"""

from __future__ import annotations

import contextvars
import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from grpo_host.agents.agent import Agent
from grpo_host.agents.model_calls import ModelCalls
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.session import Session, TokenSession
from grpo_sdk.backend import FinishReason, Sampling
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message

_RESULTS: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar(
    "grpo_replayed_tools", default=None
)


class UnsaidError(Exception):
    """The app does not say itself what its model heard first."""


class ReplayedCalls(ModelCalls):
    """Model calls that are answered by the demonstration's messages, in their order.

    The first one must show ``prompt``, if it is given; else it ends with ``UnsaidError``.
    """

    def __init__(self, agent: Agent, *, prompt: Message | None = None, **options: Any) -> None:
        super().__init__(agent, **options)
        self._prompt = prompt
        self.left: deque[Message] = deque()
        """What is still to be said."""

    async def _answer(
        self, session: Session, new: Sequence[Message], sampling: Sampling, on_text: OnText | None
    ) -> Reply:
        if not isinstance(session, TokenSession):
            self._refuse("the backend does not speak token ids")
        if self._prompt is not None and self._prompt not in new:
            self.end(UnsaidError())
        self._prompt = None
        if not self.left:
            self._refuse("the app asks its model once more than the demonstration has answers")
        said = self.left.popleft()
        before = session.ledger().sampled
        session.replay(new, said)
        if on_text is not None:
            on_text(said["content"])
        calls = said.get("tool_calls")
        finish = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
        ledger = session.ledger()
        sampled = ledger.sampled - before
        return Reply(said, finish, len(ledger.sequences[-1].ids) - sampled, sampled)

    def _refuse(self, why: str) -> NoReturn:
        self.end(ConfigError(why))


def turns_of(dialogue: Sequence[Message]) -> Iterator[tuple[list[Message], list[Message]]]:
    """What is said to an agent, and what it says then, its calls of tools included, turn by turn."""
    new: list[Message] = []
    said: list[Message] = []
    for message in dialogue:
        if message["role"] == "assistant":
            said.append(message)
        elif message["role"] != "tool":
            if said:
                yield new, said
                new, said = [], []
            new.append(message)
    if said:
        yield new, said


@contextmanager
def replayed_tools(dialogue: Sequence[Message]) -> Iterator[None]:
    """While this lasts, tools that are called here answer as in ``dialogue``, and do nothing."""
    _patch()
    answers = {m["tool_call_id"]: m["content"] for m in dialogue if m["role"] == "tool"}
    token = _RESULTS.set(answers)
    try:
        yield
    finally:
        _RESULTS.reset(token)


def _replayed(tool: BaseTool, call_id: str | None) -> ToolMessage | None:
    results = _RESULTS.get()
    if results is None or call_id is None:  # no replay, or the app's own code asks
        return None
    if call_id not in results:
        raise ConfigError(f"the demonstration has no result of its call {call_id} of {tool.name}")
    return ToolMessage(results[call_id], name=tool.name, tool_call_id=call_id)


@functools.cache
def _patch() -> None:
    """Make every tool check whether it is replayed; in all other contexts it runs as usual."""
    run, arun = BaseTool.run, BaseTool.arun

    @functools.wraps(run)
    def replayable_run(self: BaseTool, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        answer = _replayed(self, tool_call_id)
        return run(self, *args, tool_call_id=tool_call_id, **kwargs) if answer is None else answer

    @functools.wraps(arun)
    async def replayable_arun(
        self: BaseTool, *args: Any, tool_call_id: str | None = None, **kwargs: Any
    ) -> Any:
        answer = _replayed(self, tool_call_id)
        return await arun(self, *args, tool_call_id=tool_call_id, **kwargs) if answer is None else answer

    BaseTool.run = replayable_run  # type: ignore[method-assign]
    BaseTool.arun = replayable_arun  # type: ignore[method-assign]
