"""One conversation with a backend: through messages, or through token ids that are only extended."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from grpo_host.agents.backend_failure import answer_of
from grpo_host.agents.call_ids import call_ids, identified
from grpo_host.agents.rendering import Renderer
from grpo_host.agents.rendering.call_syntax import call_syntax
from grpo_host.agents.rendering.constraints import check_constraints, check_parts, make_grammar
from grpo_host.agents.reply import OnText, Reply
from grpo_host.models.resolve import end_ids
from grpo_sdk.altered import altered
from grpo_sdk.backend import Backend, Capability, ChatReply, FinishReason, Sampling, TokenReply
from grpo_sdk.errors import ContextOverflowError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, assistant
from grpo_sdk.tools import MALFORMED_CALL
from grpo_sdk.trajectory import Ledger, MessageSpan, TokenConstraint, TokenSequence

R = TypeVar("R")


class Session(ABC):
    """Holds a conversation's messages and asks for the next assistant message."""

    def __init__(
        self,
        backend: Backend,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        ids: Iterator[str] | None = None,
    ) -> None:
        self._backend = backend
        self.messages: list[Message] = list(messages)
        self.tools = tools
        self._call_ids = ids or call_ids()
        self._settled = len(self.messages)
        self._checked = 0

    async def respond(
        self, new: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> Reply:
        """Hear ``new`` messages and answer. Both are part of ``messages`` afterwards.

        ``on_text`` is given the text of the answer as it comes, without tool calls. If this raises,
        ``new`` was heard: to try again, respond to nothing new.

        Raises ``CapabilityError`` or ``ConfigError`` if nobody can answer as ``sampling`` says.
        """
        self.messages.extend(new)
        check_constraints(self._backend, sampling, self.tools)
        check_parts(self._backend, self.messages, self._checked)
        reply = await self._generate(new, sampling, on_text)
        calls = reply.message.get("tool_calls", [])
        if not sampling.parallel_tool_calls and len(calls) > 1:
            first = next((call for call in calls if call["function"]["name"] != MALFORMED_CALL), calls[0])
            reply.message = {**reply.message, "tool_calls": [first]}
        reply.message = identified(reply.message, self.messages, self._call_ids)
        self.messages.append(reply.message)
        self._settled = self._checked = len(self.messages)
        return reply

    def give_up(self) -> TokenSequence | None:
        """Forget what was heard since the last answer: the call that heard it failed, or was cut short.

        Gives the ids of the answer that had come by then, behind their prompt, if the backend told any.
        """
        del self.messages[self._settled :]
        return None

    @abstractmethod
    async def _generate(self, new: Sequence[Message], sampling: Sampling, on_text: OnText | None) -> Reply:
        """The answer to ``messages``, of which ``new`` are the last."""

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        """The exact tokens so far, with ``spans`` if asked; None if the backend does not speak them."""
        return None


class ChatSession(Session):
    """A conversation with a backend that speaks messages."""

    async def _generate(self, new: Sequence[Message], sampling: Sampling, on_text: OnText | None) -> Reply:
        reply = await (self._chat(sampling) if on_text is None else self._stream(sampling, on_text))
        return Reply(reply.message, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)

    def _chat(self, sampling: Sampling) -> Awaitable[ChatReply]:
        asked = self._backend.chat(self.messages, sampling, self._offered(sampling))
        return answer_of(self._backend, "chat", asked, ChatReply)

    def _offered(self, sampling: Sampling) -> Sequence[ToolSchema]:
        """A backend that cannot forbid calls is shown no tools where it is to make none."""
        forbidden = sampling.tool_choice == "none" and Capability.STRUCTURED not in self._backend.capabilities
        return () if forbidden else self.tools

    async def _stream(self, sampling: Sampling, on_text: OnText) -> ChatReply:
        if Capability.STREAMING not in self._backend.capabilities:
            reply = await self._chat(sampling)
            on_text(reply.message["content"])
            return reply
        items = self._backend.stream(self.messages, sampling, self._offered(sampling))
        return await answer_of(self._backend, "stream", whole_reply(items, ChatReply, on_text), ChatReply)


@dataclass(frozen=True, slots=True)
class _Part:
    """The ids from ``start`` to ``end``: what was said, or what the renderer made of ``heard``."""

    start: int
    end: int
    heard: list[Message]
    """Empty: the assistant said it."""
    completion: int = 0
    """How many ids before ``start`` are the answer that ``heard`` follows."""


class TokenSession(Session):
    """A conversation with a backend that speaks token ids: the ledger is kept here."""

    def __init__(
        self,
        backend: Backend,
        renderer: Renderer,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        ids: Iterator[str] | None = None,
        *,
        policy_version: int = 0,
    ) -> None:
        super().__init__(backend, messages, tools, ids)
        self._renderer = renderer
        self._version = policy_version
        self._closed: list[tuple[TokenSequence, list[_Part]]] = []
        self._parts: list[_Part] = []
        self._ids: list[int] = []
        self._mask: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._constraints: list[TokenConstraint] = []
        self._last_completion = 0
        self._answered = 0
        self._unanswered: list[Message] = []
        self._forked = False
        self._come: list[int] = []

    def give_up(self) -> TokenSequence | None:
        super().give_up()
        cut = self._cut_short() if self._come else None
        self._take_back()
        self._unanswered.clear()
        return cut

    def _cut_short(self) -> TokenSequence:
        """What has come of an answer; what was sampled before is context in it."""
        prompt, come = len(self._ids), len(self._come)
        ids = [*self._ids, *self._come]
        parts = [*self._parts, _Part(prompt, prompt + come, [])]
        return TokenSequence(
            ids,
            [0] * prompt + [1] * come,
            [0.0] * (prompt + come),
            [-1] * prompt + [self._version] * come,
            self._spans(ids, parts),
            weight=0.0,
        )

    async def _generate(self, new: Sequence[Message], sampling: Sampling, on_text: OnText | None) -> Reply:
        self._come = []
        self._hear(new)
        room = self._backend.model.context - len(self._ids)
        if room < 1:
            raise ContextOverflowError(
                f"the conversation takes {len(self._ids)} tokens, and the context has "
                f"{self._backend.model.context}; raise model.context or shorten the episode"
            )
        asked = sampling
        sampling = altered(
            sampling,
            max_tokens=min(sampling.max_tokens, room),
            stop_token_ids=self._renderer.stop_ids,
            grammar=self._grammar(sampling),
        )
        prompt_tokens = len(self._ids)
        told = None if on_text is None else _Told(on_text)
        if told is None:
            asked_for = self._backend.generate(self._ids, sampling)
            sampled = await answer_of(self._backend, "generate", asked_for, TokenReply)
        else:
            sampled = await self._stream(sampling, told)
        if len(sampled.ids) != len(sampled.logprobs):
            raise ValueError(
                f"the backend gave {len(sampled.logprobs)} log-probs for {len(sampled.ids)} sampled ids"
            )
        self._say(sampled.ids, sampled.logprobs, sampling.grammar, sampled.policy_version)
        text, calls = self._read(sampled.ids, asked)
        if told is not None:
            told.rest_of(text)
        parsed = any(call["function"]["name"] != MALFORMED_CALL for call in calls)
        finish = FinishReason.TOOL_CALLS if parsed else sampled.finish_reason
        return Reply(assistant(text, calls), finish, prompt_tokens, len(sampled.ids))

    def _grammar(self, sampling: Sampling) -> str | None:
        if Capability.STRUCTURED not in self._backend.capabilities:
            return None
        return make_grammar(sampling, self.tools, self._renderer, self._backend.tokenizer)

    def _read(self, ids: Sequence[int], sampling: Sampling) -> tuple[str, list[ToolCall]]:
        """The text and the calls of an answer, of which the calls may be forbidden, or the text JSON."""
        tools = _callable(self.tools, sampling)
        text, calls = self._renderer.parse(ids, tools)
        if calls and sampling.json_schema is not None and sampling.tool_choice == "auto":
            marked = call_syntax(self._renderer, self._backend.tokenizer).opening
            whole, _ = self._renderer.parse(ids, ())
            if marked and _is_json(whole):  # a string in it spells a call
                return whole, []
        return text, calls

    async def _stream(self, sampling: Sampling, told: _Told) -> TokenReply:
        reader = self._renderer.reader(_callable(self.tools, sampling))
        items = self._backend.stream_ids(self._ids, sampling)

        def hear(ids: list[int]) -> None:
            self._come += ids
            told(reader.feed(ids))

        return await answer_of(self._backend, "stream_ids", whole_reply(items, TokenReply, hear), TokenReply)

    def replay(self, new: Sequence[Message], said: Message) -> None:
        """Hear ``new`` and let the assistant have said ``said``: the ledger of a demonstration.

        The ids of ``said`` count as sampled, with logprob 0.0.
        """
        self.messages.extend(new)
        self._hear(new)
        ids = self._renderer.completion(said)
        self._say(ids, [0.0] * len(ids))
        self.messages.append(said)
        self._settled = len(self.messages)

    def ledger(self, *, spans: bool = False) -> Ledger:
        parts = [*self._closed, *([(self._sequence(), self._parts)] if self._ids else [])]
        if not spans:
            return Ledger([sequence for sequence, _ in parts])
        return Ledger([replace(found, spans=self._spans(found.ids, made)) for found, made in parts])

    def _hear(self, new: Sequence[Message]) -> None:
        self._take_back()
        self._unanswered.extend(new)
        if not self._ids:
            self._append_prompt()
            return
        cut = len(self._ids) - self._last_completion
        more = self._renderer.extension(self._ids[:cut], self._ids[cut:], self._unanswered, self.tools)
        if more is not None:
            self._append_context(more, self._unanswered, self._last_completion)
            return
        # The template rewrites history: what was sampled stays in the ledger as it was, and a new
        # sequence begins with the history as the model is to see it now.
        self._closed.append((self._sequence(), self._parts))
        self._ids, self._mask, self._logprobs, self._versions = [], [], [], []
        self._parts, self._constraints = [], []
        self._forked = True
        self._append_prompt()

    def _append_prompt(self) -> None:
        self._append_context(self._renderer.prompt(self.messages, self.tools), self.messages)

    def _take_back(self) -> None:
        """Forget the prompt of an answer that never came: the next one asks for it anew."""
        if self._forked:
            kept, self._parts = self._closed.pop()
            self._ids, self._mask, self._logprobs = list(kept.ids), list(kept.mask), list(kept.logprobs)
            self._versions = list(kept.versions)
            self._constraints = list(kept.constraints)
            self._forked = False
        for column in (self._ids, self._mask, self._logprobs, self._versions):
            del column[self._answered :]
        self._parts = [part for part in self._parts if part.end <= self._answered]

    def _say(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float],
        grammar: str | None = None,
        version: int | None = None,
    ) -> None:
        start, end = len(self._ids), len(self._ids) + len(ids)
        self._parts.append(_Part(start, end, []))
        if grammar is not None:
            self._constraints.append(TokenConstraint(start, end, grammar, self._stop_ids))
        self._append(ids, logprobs, self._version if version is None else version)
        self._last_completion = len(ids)
        self._come = []
        self._answered = len(self._ids)
        self._unanswered.clear()
        self._forked = False

    def _append_context(self, ids: Sequence[int], heard: Sequence[Message], completion: int = 0) -> None:
        self._parts.append(_Part(len(self._ids), len(self._ids) + len(ids), list(heard), completion))
        self._append(ids, [0.0] * len(ids), None)

    def _append(self, ids: Sequence[int], logprobs: Sequence[float], version: int | None) -> None:
        """``version``: of the weights that sampled ``ids``; None: nobody sampled them."""
        self._ids.extend(ids)
        self._logprobs.extend(logprobs)
        self._mask.extend([int(version is not None)] * len(ids))
        self._versions.extend([-1 if version is None else version] * len(ids))

    def _spans(self, ids: list[int], parts: list[_Part]) -> list[MessageSpan]:
        """Where the messages of ``parts`` stand in ``ids``."""
        spans: list[MessageSpan] = []
        at = 0
        for part in parts:
            ends: list[int | None] = [part.end]
            if part.heard:
                own, cut = ids[part.start : part.end], part.start - part.completion
                held, completion = ids[:cut], ids[cut : part.start]
                found = self._renderer.ends(own, held, completion, part.heard, self.tools)
                ends = [None if end is None else part.start + end for end in found]
                ends[-1] = ends[-1] or part.end
            for end, message in zip(ends, part.heard or [assistant("")], strict=True):
                if end is not None and end > at:
                    spans.append(MessageSpan(at, end, message["role"]))
                    at = end
        return spans

    @cached_property
    def _stop_ids(self) -> list[int]:
        """All ids at which the backend stops: its engine has some of its own, which a file tells."""
        model, eos = self._backend.model, self._backend.tokenizer.eos_token_id
        own = [*(end_ids(model.path) if model.path else ()), *([] if eos is None else [eos])]
        return sorted({*self._renderer.stop_ids, *own})

    def _sequence(self) -> TokenSequence:
        return TokenSequence(
            list(self._ids),
            list(self._mask),
            list(self._logprobs),
            list(self._versions),
            constraints=list(self._constraints),
        )


def _callable(tools: Sequence[ToolSchema], sampling: Sampling) -> Sequence[ToolSchema]:
    return () if sampling.tool_choice == "none" else tools


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


async def whole_reply(items: AsyncIterator[Any], kind: type[R], hear: Callable[[Any], object]) -> R:
    """The last item of a backend's stream, a ``kind``; ``hear`` is given those before."""
    async for item in items:
        if isinstance(item, kind):
            return item
        hear(item)
    raise ValueError("the backend's stream ended without the whole reply as its last item")


class _Told:
    """Passes text on and remembers it."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._text = ""

    def __call__(self, text: str) -> None:
        if text:
            self._text += text
            self._on_text(text)

    def rest_of(self, whole: str) -> None:
        """Pass on what is missing of ``whole``."""
        self(whole.removeprefix(self._text))


def open_session(
    backend: Backend,
    renderer: Renderer | None,
    messages: Sequence[Message],
    tools: Sequence[ToolSchema],
    ids: Iterator[str] | None = None,
    *,
    policy_version: int = 0,
) -> Session:
    """The session that fits ``backend``: by token ids wherever it speaks them.

    ``ids`` are for the tool calls to come.
    """
    if renderer is not None and Capability.TOKEN_IDS in backend.capabilities:
        return TokenSession(backend, renderer, messages, tools, ids, policy_version=policy_version)
    return ChatSession(backend, messages, tools, ids)
