"""A served app: to those that talk with it, it is a model that speaks messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.chat.prompt import FACTS, about
from grpo_host.langchain.app import App, load_app
from grpo_host.langchain.app_agent import AppAgent, Unknown
from grpo_host.langchain.app_assembly import mapping_from_config
from grpo_host.langchain.redirect import Redirect
from grpo_sdk.backend import Capability, ChatReply, FinishReason, Sampling
from grpo_sdk.errors import ConfigError, GrpoError, ProviderError
from grpo_sdk.messages import Message, ToolSchema, system
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentSection


class ServedApp:
    """The app that ``said.runnable`` names, on whichever backend its model is now.

    Until it is closed, the app's own models are the policy or are refused. Raises ``ConfigError``.
    """

    def __init__(self, said: AgentSection, limits: AgentLimits, tools: Sequence[ToolLike]) -> None:
        if said.runnable is None:
            raise ConfigError("agent.runnable names no app")
        self._app: App = load_app(said.runnable, said.others)
        self._said = said
        self._limits = limits
        self._tools = tuple(tools)
        self._redirect: Redirect | None = None

    def on(self, agent: Agent) -> Agent:
        """An agent that is the app, its model that of ``agent``."""
        own = replace(agent, tools=self._tools, limits=self._limits)
        played = AppAgent(own, self._app, mapping_from_config(self._said))
        if self._redirect is None:
            self._redirect = Redirect(self._said.redirect, played.model, self._said.others)
            self._redirect.install()
        return Agent(_AppBackend(played))

    def close(self) -> None:
        """Let the app's models be its own again."""
        if self._redirect is not None:
            self._redirect.restore()
            self._redirect = None
        self._app.close()


class _AppBackend(BackendWrapper):
    """Answers a conversation with what the app makes of it: in one piece, and without a caller's tools."""

    def __init__(self, played: AppAgent) -> None:
        super().__init__(played.backend)
        self.capabilities = frozenset({Capability.CHAT}) | (self.capabilities & {Capability.SEED})
        self._played = played

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        facts = FACTS.get() or {}
        played = replace(self._played, agent=replace(self._played.agent, sampling=sampling))
        conversation = played.open_episode(
            Task("conversation", Unknown(facts)), tools=(), history=(), seed=sampling.seed, policy_version=0
        )
        try:
            said = await conversation.act(_without(about(facts), messages))
        except GrpoError:
            raise
        except Exception as problem:
            raise ProviderError(f"the app failed: {type(problem).__name__}: {problem}") from problem
        turns = conversation.turns
        cut = bool(turns) and turns[-1].finish_reason == FinishReason.LENGTH
        return ChatReply(
            said,
            FinishReason.LENGTH if cut else FinishReason.STOP,
            sum(turn.prompt_tokens for turn in turns),
            sum(turn.completion_tokens for turn in turns),
        )


def _without(told: str, messages: Sequence[Message]) -> list[Message]:
    """``messages`` without the text ``told``, which the app is given otherwise."""
    if not told or not messages or messages[0]["role"] != "system":
        return list(messages)
    left = messages[0]["content"].removeprefix(told).strip()
    return [*([system(left)] if left else []), *messages[1:]]
