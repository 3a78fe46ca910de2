"""Objects that answer, as agents of the host: what can be trained, and what can only respond."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from grpo_host.agents.agent import Agent
from grpo_host.rollouts.episode import EpisodeAgent
from grpo_sdk.backend import TRAINABLE, Backend, Capability, ChatReply, ModelSpec, Sampling
from grpo_sdk.blocking import settled
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, ToolSchema, assistant

Respond = Callable[[str], str | Awaitable[str]]


@runtime_checkable
class Responder(Protocol):
    """Answers a text with a text. Nothing of it is trained."""

    async def generate_response(self, prompt: str) -> str: ...


@runtime_checkable
class Readied(Protocol):
    """Has a started agent of the host behind it, once it is ready."""

    async def ready(self) -> Agent: ...


class RespondingBackend(Backend):
    """A backend that asks a function: the latest message's text in, the answer's text out."""

    capabilities = frozenset({Capability.CHAT})

    def __init__(self, respond: Respond, *, name: str) -> None:
        super().__init__(ModelSpec(name))
        self._respond = respond

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        try:
            text = await settled(self._respond(messages[-1]["content"]))
        except Exception as problem:
            problem.add_note(f'agent "{self.model.name}": generate_response()')
            raise
        if not isinstance(text, str):
            raise TypeError(f"an answer is a text, not {text!r:.80}; mend generate_response")
        return ChatReply(assistant(text))


async def as_agent(agent: object) -> Agent:
    """The started agent behind ``agent``.

    It may be one already, have ``async ready()`` that gives it, or only answer texts through
    ``async generate_response(prompt)``. Raises ``ConfigError`` for anything else.
    """
    known = checked_agent(agent)
    if isinstance(known, Agent):
        return known
    if isinstance(known, Readied):
        return await known.ready()
    return Agent(RespondingBackend(known.generate_response, name=type(known).__name__))


def checked_agent(agent: object) -> Agent | Readied | Responder:
    """``agent``, if ``as_agent`` takes it. Raises ``ConfigError`` if not."""
    if isinstance(agent, Agent | Readied | Responder) and not isinstance(agent, type):
        return agent
    raise ConfigError(
        f"agent: {_name(agent)} is no agent. Give a MultiTurnAgent, or an object with "
        "async generate_response(prompt) that returns a text"
    )


def is_trainable(agent: EpisodeAgent) -> bool:
    """Whether GRPO can train it: exact tokens, their log-probs, weights that can be replaced."""
    return agent.backend.capabilities >= TRAINABLE and agent.backend.model.path is not None


def _name(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else repr(value)[:80]
