"""An app of LangChain's that plays episodes: its model calls are answered by the policy, and recorded."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from langchain_core.globals import get_llm_cache
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from grpo_host.agents.agent import Agent, TurnLimitError
from grpo_host.agents.model_calls import ModelCalls, comparable
from grpo_host.langchain.app import App
from grpo_host.langchain.chat import ChatGrpo
from grpo_host.langchain.episode_source import EpisodeSource
from grpo_host.langchain.mapping import answer_of, mapped, messages_of, text_of
from grpo_host.langchain.replay import ReplayedCalls, replayed_tools, turns_of
from grpo_host.langchain.tool_watch import ToolWatch
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, assistant
from grpo_sdk.tools import ToolLike, as_tool
from grpo_sdk.trajectory import Ledger, Task, TokenSequence, Turn

logger = logging.getLogger(__name__)

END_SECONDS = 10.0
"""How long an app that is stopped may take to end."""
MANY = 1_000_000
INTERRUPTS = "__interrupt__"
"""Where a LangGraph graph says what it waits for."""


class Unknown(dict[str, Any]):
    """The data of a task that a demonstration does not tell: whatever is asked for is there, and empty."""

    def __missing__(self, key: str) -> Unknown:
        return Unknown()


@dataclass(frozen=True)
class AppMapping:
    """What an app is given and what of its result is the answer: ``agent`` in agent.yaml."""

    input: str | Mapping[str, str] | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True)
class AppAgent:
    """Plays episodes with ``app``, whose model is that of ``agent``."""

    agent: Agent
    """Its backend, sampling and limits; its tools are offered to what makes the app."""
    app: App
    mapping: AppMapping = field(default_factory=AppMapping)
    weights: Mapping[str, float] | None = None
    """Role → factor of its loss, 0 for all that are not named; None: all are trained."""
    _warned: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def backend(self) -> Backend:
        return self.agent.backend

    @property
    def sampling(self) -> Sampling:
        return self.agent.sampling

    @cached_property
    def model(self) -> ChatGrpo:
        """The policy, within an episode."""
        # Without a cache, whose answers would be nobody's tokens.
        return ChatGrpo(source=EpisodeSource(self.backend), cache=False)

    def sampled(self, **changes: Any) -> AppAgent:
        return replace(self, agent=self.agent.sampled(**changes))

    def open_episode(
        self,
        task: Task,
        *,
        tools: Sequence[ToolLike],
        history: Sequence[Message],
        seed: int | None,
        policy_version: int,
    ) -> AppConversation:
        calls = ModelCalls(self.agent, seed=seed, policy_version=policy_version, weight=self._weight)
        return AppConversation(self, calls, task, tools, history)

    def _weight(self, role: str) -> float:
        return 1.0 if self.weights is None else self.weights.get(role, 0.0)

    def warn_of_roles(self, ledger: Ledger) -> None:
        """Say once if nothing in ``ledger`` is trained: it is likely that a role has another name."""
        trained = any(self._weight(item.role) for item in ledger.sequences)
        if self.weights is None or trained or not ledger.sequences or self._warned:
            return
        roles = ", ".join(sorted({item.role or '""' for item in ledger.sequences}))
        self._warned.append(
            f"agent.train names {', '.join(self.weights)}, and nothing of an episode is trained: its roles "
            f"are {roles}"
        )
        logger.warning("%s", self._warned[0])

    async def replay(self, dialogue: Sequence[Message], tools: Sequence[ToolLike]) -> list[TokenSequence]:
        limits = replace(self.agent.limits, turns=MANY)
        calls = ReplayedCalls(replace(self.agent, limits=limits), weight=self._weight)
        opening = list(dialogue[:1]) if dialogue and dialogue[0]["role"] == "system" else []
        task = Task("demonstration", Unknown())
        conversation = AppConversation(self, calls, task, tools, opening)
        for new, said in turns_of(dialogue[len(opening) :]):
            calls.left.extend(said)
            try:
                with replayed_tools(dialogue):
                    await conversation.act(new)
                if calls.left:
                    raise ConfigError(
                        f"the app answers after {len(said) - len(calls.left)} of the {len(said)} messages "
                        "that its model says in the demonstration"
                    )
            except Exception as problem:
                about = new[-1]["content"] if new else ""
                raise ConfigError(
                    f"training.warm_start: the app cannot play the demonstration of {about!r:.60}: {problem}"
                ) from problem
        ledger = calls.ledger(spans=True)
        return ledger.sequences if ledger else []


class AppConversation:
    """One episode of an app."""

    def __init__(
        self,
        agent: AppAgent,
        calls: ModelCalls,
        task: Task,
        tools: Sequence[ToolLike],
        history: Sequence[Message],
    ) -> None:
        self.agent = agent
        self.calls = calls
        self.task = task
        self.messages: list[Message] = []
        """All that was said to the app, to its models and by them."""
        self._tools = [as_tool(tool) for tool in (*agent.agent.tools, *tools)]
        self._opening = list(history)
        self._state: list[BaseMessage] = []
        self._runnable: Runnable[Any, Any] | None = None
        self._waits = False
        self._config: RunnableConfig = {
            "configurable": {"thread_id": f"{task.id}-{id(self):x}"},
            "callbacks": [ToolWatch(calls)],
        }

    @property
    def turns(self) -> list[Turn]:
        return self.calls.turns

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        ledger = self.calls.ledger(spans=spans)
        if ledger is not None:
            self.agent.warn_of_roles(ledger)
        return ledger

    async def act(self, new: Sequence[Message]) -> Message:
        """What the app makes of ``new``: its answer, as a message.

        Raises ``TurnLimitError`` if it uses up its model calls or LangGraph's steps, ``TurnTimeoutError``,
        and what the app raises.
        """
        if get_llm_cache() is not None:
            raise ConfigError(
                "LangChain's cache of answers is on, and an answer from it has no tokens. Leave out "
                "set_llm_cache"
            )
        new = [*self._opening, *new]
        self._opening = []
        before = len(self.calls.messages)
        try:
            with self.calls.current():
                running = asyncio.ensure_future(self._invoke(new))
            given = await self._ended(running)
            answer = self._heard(new, given)
        except BaseException:
            self._note(new, before)
            raise
        self._note(new, before)
        if not self.messages or comparable(self.messages[-1]) != comparable(answer):
            self.messages.append(answer)
        return answer

    async def _ended(self, running: asyncio.Future[Any]) -> Any:
        """What the app gives, unless it is stopped before."""
        stopped = self.calls.stopped
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                return running.result()
        except RecursionError as problem:
            if _is_graph_recursion(problem):
                raise TurnLimitError(str(problem)) from problem
            raise
        finally:
            running.cancel()
            await asyncio.wait({running}, timeout=END_SECONDS)
            if running.done() and not running.cancelled():
                running.exception()  # it was stopped: what it says of that is of no interest
        return stopped.result()

    async def _invoke(self, new: Sequence[Message]) -> Any:
        agent = self.agent
        if self._runnable is None:
            self._runnable = await self._made()
        said = messages_of(new)
        values = {
            "messages": [*self._state, *said],
            "new": said,
            "text": new[-1]["content"] if new else "",
            "task": self.task.data,
        }
        if self._waits:
            from langgraph.types import Command

            given: Any = Command(resume=values["text"])
        else:
            remembers = getattr(self._runnable, "checkpointer", None)
            given = mapped(agent.mapping.input or {"messages": "new" if remembers else "messages"}, values)
        more = {"context": mapped(agent.mapping.context, values)} if agent.mapping.context else {}
        return await self._runnable.ainvoke(given, self._config, **more)

    async def _made(self) -> Runnable[Any, Any]:
        given = {
            "model": self.agent.model,
            "tools": self._tools,
            "task": self.task.data,
            "config": self._config,
        }
        return await self.agent.app.runnable(given)

    def _heard(self, new: Sequence[Message], given: Any) -> Message:
        """The answer in what the app gave; what it remembers is kept for its next one."""
        waits = given.get(INTERRUPTS) if isinstance(given, Mapping) else None
        self._waits = bool(waits)
        if waits:
            answer = text_of(getattr(waits[0], "value", waits[0]))
        else:
            answer = answer_of(given, self.agent.mapping.output)
        state = given.get("messages") if isinstance(given, Mapping) else None
        if isinstance(state, list) and all(isinstance(item, BaseMessage) for item in state):
            self._state = list(state)
        else:
            self._state += [*messages_of(new), AIMessage(answer)]
        return assistant(answer)

    def _note(self, new: Sequence[Message], before: int) -> None:
        """Add what was said since; what the app did not tell its models comes first."""
        said = self.calls.messages[before:]
        told = {comparable(message) for message in said}
        self.messages += [*(message for message in new if comparable(message) not in told), *said]


def _is_graph_recursion(problem: RecursionError) -> bool:
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(problem, errors.GraphRecursionError)
