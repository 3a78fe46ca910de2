"""What may watch work while it is done: contexts in which it runs, so that spans nest as the work does.

Only the shape is here. ``grpo_host.telemetry.agents`` and ``grpo_host.training.telemetry`` have those that
speak OpenTelemetry. Whoever only wants to be told what has ended observes: ``grpo_host.plugins.observing``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from grpo_host.agents.reply import Reply
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.messages import Message, ToolCall, ToolSchema
from grpo_sdk.trajectory import ToolRun, Turn


@dataclass(frozen=True, slots=True)
class Served:
    """As what, and for whom, a server answers."""

    agent: str
    """The agent's name in agent.yaml."""
    owner: str
    """Of the key that asked."""
    run: str | None = None
    """Id of the run that trained the model."""
    adapter: str | None = None
    """Directory of the adapter."""
    response_id: str | None = None
    """What the caller knows the answer by."""


SERVED: ContextVar[Served | None] = ContextVar("grpo_served", default=None)
"""In the context of one answer of a server."""


@dataclass(slots=True)
class Recording:
    """A trajectory that is being recorded."""

    id: str
    outer: Recording | None = None
    """Of whoever called what it records."""
    over: bool = False


_RECORDING: ContextVar[Recording | None] = ContextVar("grpo_recording", default=None)


def begin_recording(id: str) -> Recording:
    """What happens in this context is recorded in the trajectory ``id``, until the recording is ``over``.

    Its end may come in another context: callbacks of LangChain's are called in tasks of their own.
    """
    recording = Recording(id, _live(_RECORDING.get()))
    _RECORDING.set(recording)
    return recording


def current_trajectory() -> str | None:
    """Id of the trajectory in which what happens in this context is recorded."""
    live = _live(_RECORDING.get())
    return live.id if live is not None else None


def _live(recording: Recording | None) -> Recording | None:
    while recording is not None and recording.over:
        recording = recording.outer
    return recording


Phase = Callable[[str], AbstractContextManager[object]]
"""Gives the context of a phase of a training step: generation, reward_calculation or checkpointing."""


class Talk(Protocol):
    """What is watched: a ``grpo_host.agents.agent.Conversation``."""

    @property
    def id(self) -> str | None: ...
    @property
    def agent_name(self) -> str: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def turns(self) -> Sequence[Turn]: ...
    @property
    def messages(self) -> Sequence[Message]: ...
    def has_tool(self, name: str) -> bool: ...


class ModelCall(Protocol):
    """One model call under way."""

    def text(self, piece: str) -> None:
        """Some of the answer came; only told if it is streamed."""

    def replied(self, reply: Reply) -> None:
        """It ended well."""


class Instruments(Protocol):
    """Each method gives a context in which the thing happens; leaving it by an error is its failure."""

    def invocation(
        self, conversation: Talk, new: Sequence[Message]
    ) -> AbstractContextManager[Callable[[Message], None]]:
        """The agent answers ``new``, tools included; call what is given with its last word."""

    def model_call(
        self,
        backend: Backend,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[ToolSchema] = (),
        *,
        conversation_id: str | None = None,
    ) -> AbstractContextManager[ModelCall]:
        """The model answers ``messages``. Within an invocation the conversation is known."""

    def tool_call(
        self, conversation: Talk, call: ToolCall
    ) -> AbstractContextManager[Callable[[Message, ToolRun], None]]:
        """A tool runs; call what is given with its answer and record."""
