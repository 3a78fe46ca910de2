"""An app of LangChain's that plays episodes: its model calls are answered by the policy, and recorded."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from uuid import uuid4

from langchain_core.globals import get_llm_cache
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from grpo_host.agents.agent import Agent, TurnLimitError
from grpo_host.agents.model_calls import ModelCalls, comparable
from grpo_host.agents.reply import OnText
from grpo_host.agents.tracing import current_trajectory
from grpo_host.langchain.app import App
from grpo_host.langchain.chat import ChatGrpo
from grpo_host.langchain.episode_source import EpisodeSource
from grpo_host.langchain.episode_watch import EpisodeWatch
from grpo_host.langchain.mapping import answer_of, mapped, messages_of, resumed_with, text_of
from grpo_host.langchain.replay import ReplayedCalls, UnsaidError, replayed_tools, turns_of
from grpo_host.langchain.telling import Telling
from grpo_sdk.backend import Backend, FinishReason, Sampling
from grpo_sdk.errors import ConfigError, ContextOverflowError
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """A graph that waits, by ``interrupt``, for what the user says to its question."""

    runnable: Runnable[Any, Any]
    thread: str
    """The thread in which its checkpointer keeps its state."""
    interrupts: tuple[Any, ...]

    async def forget(self) -> None:
        """Delete the thread from the checkpointer."""
        if (keeper := _checkpointer(self.runnable)) is not None:
            await keeper.adelete_thread(self.thread)


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
        goes_on: Waiting | None = None,
    ) -> AppConversation:
        calls = ModelCalls(self.agent, seed=seed, policy_version=policy_version, weight=self._weight)
        return AppConversation(self, calls, task, tools, history, goes_on)

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
        if not dialogue or dialogue[0]["role"] != "system":
            return await self._replay(dialogue, tools, [])
        prompt = dialogue[0]
        try:  # what was recorded of the app begins with its own prompt
            return await self._replay(dialogue[1:], tools, [], prompt)
        except UnsaidError:
            return await self._replay(dialogue[1:], tools, [prompt])

    async def _replay(
        self,
        dialogue: Sequence[Message],
        tools: Sequence[ToolLike],
        opening: Sequence[Message],
        prompt: Message | None = None,
    ) -> list[TokenSequence]:
        """``opening`` is told to the app first; ``prompt`` is what it should say itself."""
        limits = replace(self.agent.limits, turns=MANY)
        calls = ReplayedCalls(replace(self.agent, limits=limits), prompt=prompt, weight=self._weight)
        task = Task("demonstration", Unknown())
        conversation = AppConversation(self, calls, task, tools, opening)
        for new, said in turns_of(dialogue):
            calls.left.extend(said)
            try:
                with replayed_tools(dialogue):
                    await conversation.act(new)
                if calls.left:
                    raise ConfigError(
                        f"the app answers after {len(said) - len(calls.left)} of the {len(said)} messages "
                        "that its model says in the demonstration"
                    )
            except UnsaidError:
                raise
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
        goes_on: Waiting | None = None,
    ) -> None:
        """``goes_on``: the first thing that is said resumes it."""
        self.agent = agent
        self.calls = calls
        self.task = task
        self.messages: list[Message] = []
        """All that was said to the app, to its models and by them."""
        self._tools = [as_tool(tool) for tool in (*agent.agent.tools, *tools)]
        self._opening = list(history)
        self._state: list[BaseMessage] = []
        self._runnable = goes_on.runnable if goes_on else None
        self._thread = goes_on.thread if goes_on else f"{task.id}-{uuid4().hex}"
        self._interrupts = goes_on.interrupts if goes_on else ()
        self._config: RunnableConfig = {
            "configurable": {"thread_id": self._thread},
            "callbacks": [EpisodeWatch(calls.asked)],
        }
        if trajectory := current_trajectory():
            self._config["metadata"] = {"grpo_trajectory": trajectory}  # for who traces the app

    @property
    def turns(self) -> list[Turn]:
        return self.calls.turns

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        ledger = self.calls.ledger(spans=spans)
        if ledger is not None:
            self.agent.warn_of_roles(ledger)
        return ledger

    @property
    def waiting(self) -> Waiting | None:
        """The graph that the next message continues, in any conversation; None: it is not waiting."""
        if self._runnable is None or not self._interrupts or _checkpointer(self._runnable) is None:
            return None
        return Waiting(self._runnable, self._thread, self._interrupts)

    async def forget(self) -> None:
        """Delete this conversation, which nobody continues, from the app's checkpointer."""
        if self._runnable is not None:
            await Waiting(self._runnable, self._thread, ()).forget()

    async def act(self, new: Sequence[Message], on_text: OnText | None = None) -> Message:
        """What the app makes of ``new``: its answer, as a message.

        ``on_text`` is told what the app's model says as it comes, and the answer at last.
        Raises ``TurnLimitError`` if it uses up its model calls or LangGraph's steps, ``TurnTimeoutError``,
        ``ContextOverflowError`` if an answer was cut, and what else the app raises.
        """
        if get_llm_cache() is not None:
            raise ConfigError(
                "LangChain's cache of answers is on, and an answer from it has no tokens. Leave out "
                "set_llm_cache"
            )
        new = [*self._opening, *new]
        self._opening = []
        before = len(self.calls.messages)
        telling = None if on_text is None else Telling(on_text)
        self.calls.listen = nullcontext if telling is None or self.agent.mapping.output else telling.listen
        try:
            with self.calls.current():
                running = asyncio.ensure_future(self._invoke(new))
            given = await self._ended(running)
            answer = self._heard(new, given)
            if telling is not None:
                answer = assistant(telling.end(answer["content"]))
        except BaseException:
            self._note(new, before)
            raise
        self._note(new, before)
        if not self.messages or comparable(self.messages[-1]) != comparable(answer):
            self.messages.append(answer)
        return answer

    async def _ended(self, running: asyncio.Future[Any]) -> Any:
        """Await the app's result, unless the episode is stopped first."""
        stopped = self.calls.stopped
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                return running.result()
        except Exception as problem:
            if _is_graph_recursion(problem):
                raise TurnLimitError(str(problem)) from problem
            if self.turns and self.turns[-1].finish_reason == FinishReason.LENGTH:  # no fault of the app
                raise ContextOverflowError(
                    f"max_tokens cut the model's answer, of which the app makes nothing: {problem}"
                ) from problem
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
        text = new[-1]["content"] if new else ""
        values = {
            "messages": [*self._state, *said],
            "new": said,
            "text": text,
            "task": self.task.data,
        }
        if self._interrupts:
            from langgraph.types import Command

            given: Any = Command(resume={self._interrupts[0].id: resumed_with(text)})
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
        self._interrupts = tuple(given.get(INTERRUPTS) or ()) if isinstance(given, Mapping) else ()
        if self._interrupts:
            answer = text_of(self._interrupts[0].value)
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


def _checkpointer(runnable: Runnable[Any, Any]) -> Any:
    """What keeps a graph's threads, or None."""
    keeper = getattr(runnable, "checkpointer", None)
    return keeper if hasattr(keeper, "adelete_thread") else None  # True: that of the graph around it


def _is_graph_recursion(problem: Exception) -> bool:
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(problem, errors.GraphRecursionError)
