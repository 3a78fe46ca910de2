"""A served app: to those that talk with it, it is a model that speaks messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.reply import OnText
from grpo_host.agents.streaming import astreamed
from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.chat.prompt import CONVERSATION, about
from grpo_host.langchain.app import App, load_app
from grpo_host.langchain.app_agent import AppAgent, Unknown
from grpo_host.langchain.app_assembly import mapping_from_config
from grpo_host.langchain.redirect import Redirect
from grpo_host.langchain.waiting_apps import WaitingApps
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
        self._waiting = WaitingApps()

    def on(self, agent: Agent) -> Agent:
        """An agent that is the app, its model that of ``agent``."""
        own = replace(agent, tools=self._tools, limits=self._limits)
        played = AppAgent(own, self._app, mapping_from_config(self._said))
        if self._redirect is None:
            self._redirect = Redirect(self._said.redirect, played.model, self._said.others)
            self._redirect.install()
        return Agent(_AppBackend(played, self._waiting))

    def close(self) -> None:
        """Give the app its own models back."""
        if self._redirect is not None:
            self._redirect.restore()
            self._redirect = None
        self._app.close()


class _AppBackend(BackendWrapper):
    """Answers a conversation with what the app makes of it, without a caller's tools."""

    def __init__(self, played: AppAgent, waiting: WaitingApps) -> None:
        super().__init__(played.backend)
        own = frozenset({Capability.CHAT, Capability.STREAMING})
        self.capabilities = own | (self.capabilities & {Capability.SEED})
        self._played = played
        self._waiting = waiting

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        return await self._answer(messages, sampling)

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncGenerator[str | ChatReply, None]:
        """What the app's model says as it comes; what is no part of the answer is told before it."""
        return astreamed(lambda on_text: self._answer(messages, sampling, on_text))

    async def _answer(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> ChatReply:
        record = CONVERSATION.get()
        facts = record.context if record is not None else {}
        said = _without(about(facts), messages)
        played = replace(self._played, agent=replace(self._played.agent, sampling=sampling))
        waits = self._waiting.take(said)
        conversation = played.open_episode(
            Task("conversation", Unknown(facts)),
            tools=(),
            history=(),
            seed=sampling.seed,
            policy_version=0,
            goes_on=waits,
        )
        try:
            answer = await conversation.act(said if waits is None else said[-1:], on_text)
        except BaseException as problem:
            if waits is not None:  # it may be resumed again
                await self._waiting.put(said[:-2], said[-2]["content"], waits)
            if isinstance(problem, GrpoError) or not isinstance(problem, Exception):
                raise
            raise ProviderError(f"the app failed: {type(problem).__name__}: {problem}") from problem
        if conversation.waiting is None:
            await conversation.forget()
        else:
            await self._waiting.put(said, answer["content"], conversation.waiting)
        turns = conversation.turns
        cut = bool(turns) and turns[-1].finish_reason == FinishReason.LENGTH
        return ChatReply(
            answer,
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
