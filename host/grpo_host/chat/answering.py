"""Make one answer in a conversation: what the model is shown, what it does, and what is stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from grpo_host.agents.agent import Agent, Conversation, ToolUse, TurnLimitError
from grpo_host.agents.rendering.tool_calls import as_plain_messages, as_written, parse_calls
from grpo_host.agents.reply import OnText
from grpo_host.chat.context import counter, exchanges, fit, older
from grpo_host.chat.prompt import CONVERSATION, Examples, about, joined, nearest, recap
from grpo_host.chat.store import ConversationRecord, Digest
from grpo_host.chat.summary import summarise
from grpo_host.chat.voice import Voice
from grpo_sdk.errors import ContextOverflowError
from grpo_sdk.messages import Message, assistant, system, user
from grpo_sdk.numbers import check_number
from grpo_sdk.strategy import Strategy
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.trajectory import Turn

logger = logging.getLogger("grpo_host.chat")

Policy = Literal["summarise", "drop"]

_RELIEF = 0.5
"""Compression leaves this share of the threshold, so that it is not needed again at once."""
_SUMMARY = 8
"""A summary takes at most one token in so many of the context."""
_EXAMPLES = 5
"""Examples take at most one token in so many of the context."""
_CHARACTERS = 3
"""So many characters of ordinary text are at least one token."""
_TIGHTER = 0.7
"""What is left of a budget that the backend found too large."""


@dataclass(frozen=True, slots=True)
class Window:
    """How much of a conversation the model is shown."""

    tokens: int | None = None
    """Longest sequence, answer included; None: the model's context."""
    turns: int = 20
    """How many exchanges, including the one under way, are shown word for word."""
    threshold: float = 0.8
    """Share of the tokens from which older exchanges are compressed."""
    policy: Policy = "summarise"
    """``summarise``: the model summarises older exchanges. ``drop``: they are left out."""

    def __post_init__(self) -> None:
        check_number("the compression threshold", self.threshold, float)
        check_number("the number of turns", self.turns, int)
        if self.tokens is not None:
            check_number("the context", self.tokens, int)
        if not 0 < self.threshold <= 1:
            raise ValueError(
                f"the compression threshold is a share above 0 and at most 1, not {self.threshold}"
            )
        if self.turns < 1:
            raise ValueError(f"a conversation shows at least 1 turn, not {self.turns}")
        if self.tokens is not None and self.tokens < 16:
            raise ValueError(f"a context has at least 16 tokens, not {self.tokens}")
        if self.policy not in ("summarise", "drop"):
            raise ValueError(f'the compression policy is "summarise" or "drop", not "{self.policy}"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What the assistant said, and what to store."""

    text: str
    messages: list[Message]
    """The user's message and all that followed."""
    digest: Digest | None
    """The new digest, if more messages were compressed."""
    repeatable: bool
    """Whether the answer can be generated again: nothing was streamed and no tool has run."""
    tools: list[ToolUse] = field(default_factory=list)
    """The tool calls and their results."""
    turns: list[Turn] = field(default_factory=list)
    """The calls of the model."""


class Answering:
    """One answer to ``message`` by ``agent``, after what ``record`` holds."""

    def __init__(
        self,
        agent: Agent,
        record: ConversationRecord,
        message: str,
        window: Window,
        *,
        examples: Examples | None = None,
        on_text: OnText | None = None,
        seed: int | None = None,
        debug: bool = False,
    ) -> None:
        longest = min(window.tokens or agent.backend.model.context, agent.backend.model.context)
        room = min(agent.sampling.max_tokens, longest // 2)
        self._instructions = agent.strategy.instructions
        # The system message is put together here; the agent is to add nothing to it.
        self._agent = replace(
            agent,
            strategy=Strategy(agent.strategy.name),
            sampling=replace(agent.sampling, max_tokens=room),
        )
        self._record = record
        self._message = message
        self._window = window
        self._longest = longest
        self._budget = longest - room
        self._examples = examples
        self._voice = Voice(on_text) if on_text is not None else None
        self._seed = seed
        self._debug = debug
        self._digest = record.digest
        self._shown_examples = ""
        self._count = counter(agent.renderer, Toolbox(agent.tools).schemas)

    async def answer(self) -> Answer:
        """Raises ``ContextOverflowError``, ``TurnLimitError``, ``TurnTimeoutError``, and the backend's."""
        CONVERSATION.set(self._record)
        if self._examples is not None:
            characters = self._longest // _EXAMPLES * _CHARACTERS
            self._shown_examples = await nearest(self._examples, self._message, characters)
        await self._compress()
        history = self._record.messages[self._digest.messages :]
        conversation = self._agent.open(history=self._view(history), seed=self._seed, id=self._record.id)
        conversation.prepare = self._prepare
        said = await self._act(conversation)
        return Answer(
            text=said["content"],
            messages=list(map(as_written, conversation.said)),
            digest=self._digest if self._digest != self._record.digest else None,
            repeatable=not conversation.used and not (self._voice and self._voice.spoke),
            tools=conversation.used,
            turns=conversation.turns,
        )

    async def _act(self, conversation: Conversation) -> Message:
        new: list[Message] = [user(self._message)]
        while True:
            try:
                return await conversation.act(new, self._voice)
            except TurnLimitError:
                return await self._speak_without_tools(conversation)
            except ContextOverflowError as problem:
                # A backend that counts for itself; here the tokens were an estimate.
                self._budget = int(self._budget * _TIGHTER)
                logger.info("conversation %s: %s; showing less", self._record.id, problem)
                try:
                    shown = self._fitted(_without_system(conversation.session.messages))
                except ContextOverflowError:
                    raise problem from None
                conversation.begin_again(shown)
                new = []

    async def _speak_without_tools(self, conversation: Conversation) -> Message:
        """Ask a model that keeps calling tools to answer with what it has, and offer it no tools."""
        logger.info("conversation %s: all turns went to tools; answering without", self._record.id)
        shown = self._fitted(_without_system(conversation.session.messages))
        plain = cast("list[Message]", as_plain_messages(shown, ()))
        silent = replace(
            self._agent,
            tools=(),
            sampling=replace(self._agent.sampling, tool_choice="none"),
            limits=replace(self._agent.limits, turns=1),
        )
        said = await silent.open(history=plain, seed=self._seed, id=self._record.id).act([])
        text, _ = parse_calls(said["content"])
        if not text:
            raise TurnLimitError(
                f"the model called tools in {self._agent.limits.turns} turns and then said nothing; raise "
                "max_tool_rounds, offer fewer tools, or ask with use_tools=False"
            )
        if self._voice is not None:
            self._voice.next_message()
            self._voice(text)
        answer = assistant(text)
        conversation.said.append(answer)
        return answer

    async def _compress(self) -> None:
        """Compress the oldest exchanges if there are too many."""
        window = self._window
        whole = [*self._record.messages[self._digest.messages :], user(self._message)]
        threshold = self._budget * window.threshold
        many = len(exchanges(whole)) > window.turns
        if not many and self._count(self._view(whole)) <= threshold:
            return
        tokens = self._longest // _SUMMARY if window.policy == "summarise" else 0
        target = threshold * _RELIEF - tokens

        def fits(messages: list[Message]) -> bool:
            return self._count(self._view(messages, summary=False)) <= target

        turns = max(1, int(window.turns * _RELIEF)) if many else window.turns
        away = older(whole, fits, turns)
        if not away:
            return
        summary = await self._summary(whole[:away], tokens) if tokens else ""
        self._digest = Digest(self._digest.messages + away, summary)
        logger.info("conversation %s: put %d older messages away", self._record.id, away)

    async def _summary(self, messages: Sequence[Message], tokens: int) -> str:
        try:
            return await summarise(self._agent, self._digest.summary, messages, tokens=tokens)
        except Exception as problem:  # the answer matters more
            logger.warning(
                "conversation %s: the summary of %d messages failed, they are left out: %s: %s",
                self._record.id, len(messages), type(problem).__name__, problem,
            )  # fmt: skip
            return self._digest.summary

    def _view(
        self, messages: Sequence[Message], *, examples: bool = True, summary: bool = True
    ) -> list[Message]:
        """``messages`` behind the system message."""
        text = joined(
            self._instructions,
            about(self._record.context),
            self._shown_examples if examples else "",
            recap(self._digest.summary) if summary else "",
        )
        return [system(text), *messages] if text else list(messages)

    def _fitted(self, messages: Sequence[Message]) -> list[Message]:
        """``messages`` as they are shown: less if they would take more than the budget."""
        for view in (self._view(messages), self._view(messages, examples=False)):
            if self._count(view) <= self._budget:
                return view
        try:
            return fit(view, self._budget, self._count)
        except ContextOverflowError:
            return fit(self._view(messages, examples=False, summary=False), self._budget, self._count)

    def _prepare(self, messages: list[Message]) -> list[Message] | None:
        if self._voice is not None:
            self._voice.next_message()
        shown = self._fitted(_without_system(messages))
        if self._debug:
            logger.debug("conversation %s: the model is shown %s", self._record.id, shown)
        return None if shown == messages else shown


def _without_system(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] != "system"]
