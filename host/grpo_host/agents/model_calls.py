"""The model calls of one episode that an app makes itself: each recorded token by token.

The app decides what it shows the model, and when; whatever it does, every id that is sampled for it is
in exactly one sequence of the ledger.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import NoReturn

from grpo_host.agents.agent import Agent, TurnLimitError, TurnTimeoutError, call_model
from grpo_host.agents.call_ids import call_ids
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.session import Session, open_session
from grpo_host.agents.shown import shown_reply
from grpo_sdk.altered import altered
from grpo_sdk.backend import Sampling
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Ledger, TokenSequence, Turn

Adjust = Callable[[Sampling], Sampling]
"""Makes a call's own sampling of the episode's."""
Listen = Callable[[OnText | None], AbstractContextManager[OnText | None]]
"""Gives, while a call is answered, what is to be told its text: who asked, and perhaps someone else too."""


class NoEpisodeError(GrpoError):
    """A model call belongs to no episode: nothing would record it."""


_CURRENT: ContextVar[ModelCalls | None] = ContextVar("grpo_model_calls", default=None)


def current_calls() -> ModelCalls:
    """The model calls of the episode that is played in this context.

    Tasks, and threads that LangChain begins, have the context of who began them. Raises
    ``NoEpisodeError`` outside of an episode.
    """
    calls = _CURRENT.get()
    if calls is None:
        raise NoEpisodeError(
            "the policy was called outside of an episode, or in a thread that does not know its episode: no "
            "model was asked. Begin threads with LangChain's executors or batch(), or with "
            "contextvars.copy_context().run"
        )
    return calls


def within_episode() -> bool:
    """Whether an episode is played in this context."""
    return _CURRENT.get() is not None


@dataclass(slots=True, eq=False)
class _Held:
    """A session and what it holds, in a form that can be compared."""

    session: Session
    tools: str
    role: str
    said: list[Hashable] = field(default_factory=list)
    busy: bool = True


class ModelCalls:
    """Answers an app's model calls, at most ``agent.limits.turns`` of them, and keeps their tokens.

    A call whose messages go on from those of an earlier call of its role is answered in that call's
    session, so that the ids are extended and never rendered anew. Any other has a session of its own, and
    so has one that comes while that session answers. Use it in the event loop in which it was made.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        seed: int | None = None,
        policy_version: int = 0,
        weight: Callable[[str], float] = lambda _: 1.0,
    ) -> None:
        """``weight`` gives the factor of the loss of what a role samples; 0: it is not trained."""
        self.agent = agent
        self.seed = seed
        self.loop = asyncio.get_running_loop()
        self.turns: list[Turn] = []
        """The calls that were answered."""
        self.asked: dict[str, Turn] = {}
        """Id of a tool's call → the model call that asked for it; who runs it may note that there."""
        self.messages: list[Message] = []
        """All that was said, each message once, in the order in which calls were answered."""
        self.stopped: asyncio.Future[NoReturn] = self.loop.create_future()
        """Fails with what ended the episode, however the app takes that."""
        self.stopped.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.listen: Listen = nullcontext
        """For each call that is not aside."""
        self._version = policy_version
        self._weight = weight
        self._ids = call_ids(seed)
        self._begun = 0
        self._held: list[_Held] = []
        self._cut: list[TokenSequence] = []
        self._told: set[Hashable] = set()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context in which ``current_calls`` gives these."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    async def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        adjust: Adjust = lambda sampling: sampling,
        on_text: OnText | None = None,
        *,
        role: str = "",
        aside: bool = False,
    ) -> Reply:
        """The policy's answer to ``messages``, recorded as said by ``role``.

        ``aside``: what it says is no part of what the app says itself.
        Raises ``TurnLimitError`` if the episode has used up its calls, ``TurnTimeoutError``, and what the
        backend raises. The first two end the episode, whatever the app makes of them.
        """
        if self.stopped.done():
            self.stopped.result()  # raises
        limits = self.agent.limits
        if self._begun >= limits.turns:
            self.end(TurnLimitError(f"the app called its model more than {limits.turns} times"))
        sampling = adjust(self.agent.sampling)
        if self.seed is not None:
            sampling = altered(sampling, seed=derive_seed(self.seed, self._begun))
        self._begun += 1
        said = [comparable(message) for message in messages]
        held = self._take(messages, said, tools, role)
        new = messages[len(held.said) :]
        started = time.perf_counter()
        try:
            with nullcontext(on_text) if aside else self.listen(on_text) as told:
                reply = await self._answer(held.session, new, sampling, told)
        except BaseException as problem:
            self._give_up(held, problem)
            if isinstance(problem, TurnTimeoutError):
                self.end(problem)
            raise
        seconds = time.perf_counter() - started
        held.busy = False
        self._tell(messages, said, len(held.said))
        held.said = [*said, comparable(reply.message)]
        self.messages.append(reply.message)
        self._told.add(held.said[-1])
        turn = Turn(reply.prompt_tokens, reply.completion_tokens, seconds, reply.finish_reason)
        self.turns.append(turn)
        self.asked.update({call["id"]: turn for call in reply.message.get("tool_calls", ())})
        return reply

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        """The exact tokens so far; None if the backend does not speak them."""
        sequences: list[TokenSequence] = []
        for held in self._held:
            ledger = held.session.ledger(spans=spans)
            if ledger is None:
                return None
            weight = self._weight(held.role)
            sequences += [replace(item, role=held.role, weight=weight) for item in ledger.sequences]
        return Ledger([*sequences, *self._cut])

    async def _answer(
        self, session: Session, new: Sequence[Message], sampling: Sampling, on_text: OnText | None
    ) -> Reply:
        """As the app is to see it; what it then says is compared with that."""
        seconds = self.agent.limits.turn_seconds
        return await shown_reply(
            lambda told: call_model(self.agent, session, new, sampling, told, seconds), sampling.stop, on_text
        )

    def _take(
        self, messages: Sequence[Message], said: list[Hashable], tools: Sequence[ToolSchema], role: str
    ) -> _Held:
        """The session that ``messages`` go on from, the longest if there are several, or a new one."""
        offered = json.dumps(tools, sort_keys=True, default=str)
        found = [
            held
            for held in self._held
            if not held.busy
            and (held.tools, held.role) == (offered, role)
            and len(held.said) < len(said)
            and said[: len(held.said)] == held.said
        ]
        if found:
            held = max(found, key=lambda held: len(held.said))
            held.busy = True
            return held
        agent = self.agent
        session = open_session(
            agent.backend, agent.renderer, (), tools, self._ids, policy_version=self._version
        )
        self._held.append(_Held(session, offered, role))
        return self._held[-1]

    def _give_up(self, held: _Held, problem: BaseException) -> None:
        """Leave ``held`` as it was before a call that came to nothing.

        What an answer that was cut short had sampled is kept; a call that failed has no tokens.
        """
        cut = held.session.give_up()
        failed = isinstance(problem, Exception) and not isinstance(problem, TurnTimeoutError)
        if cut is not None and not failed:
            self._cut.append(replace(cut, role=held.role))
        if held.said:
            held.busy = False
        else:
            self._held.remove(held)

    def end(self, problem: Exception) -> NoReturn:
        """End the episode with ``problem``, however the app takes it."""
        if not self.stopped.done():
            self.stopped.set_exception(problem)
        raise problem

    def _tell(self, messages: Sequence[Message], said: Sequence[Hashable], known: int) -> None:
        """Note what is new in ``messages``: after a session's own ``known``, what no session has heard."""
        for message, comparable in zip(messages[known:], said[known:], strict=True):
            if known or comparable not in self._told:
                self.messages.append(message)
                self._told.add(comparable)


def comparable(message: Message) -> Hashable:
    """Equal for messages that say the same: the same calls too, however their arguments are written."""
    calls = tuple(
        (call["id"], call["function"]["name"], _plain_json(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    )
    return message["role"], message["content"], message.get("tool_call_id"), calls


def _plain_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
