"""The answers to one request of ``/v1``, whichever of its two protocols it came in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from grpo_host.agents.agent import Agent, ToolUse
from grpo_host.agents.rendering.tool_calls import as_written
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.session import Session
from grpo_host.agents.speakers import speakers_in_text
from grpo_host.agents.stop_sequences import StopSequences
from grpo_host.chat.voice import Voice
from grpo_host.openai_protocol.completions import (
    Choice,
    Logprobs,
    MessageOut,
    TokenLogprob,
    Usage,
)
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.openai_protocol.tool_runs import shown
from grpo_host.serving.api.served_as import serve_as
from grpo_host.serving.http.endpoint import Call
from grpo_host.serving.http.errors import agent_errors
from grpo_host.serving.models.pool import Lease, ModelPool
from grpo_sdk.backend import Capability, FinishReason, Sampling
from grpo_sdk.errors import ContextOverflowError
from grpo_sdk.messages import Message, ToolCall, ToolSchema
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy

MOST_CHARACTERS = 32
"""Of a token, on the average of a prompt: a longer one is refused before it keeps the server busy."""


class Question(Protocol):
    """What is asked, in either protocol."""

    FORMAT: ClassVar[str]
    """The field that says what the text of the answer is."""

    @property
    def model(self) -> str: ...
    @property
    def n(self) -> int | None: ...
    @property
    def logprobs(self) -> bool | None: ...
    def conversation(self) -> list[Message]: ...
    def offered(self) -> list[ToolSchema]: ...
    def wants_agents_tools(self) -> bool: ...
    def sampling(self, defaults: Sampling) -> Sampling: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers."""

    reply: Reply
    """What is no call that the caller could make is text in it."""
    session: Session
    text: str
    """Up to the first of the caller's stop texts."""
    tokens: int
    """Of its last message alone."""
    tools: list[ToolUse] = field(default_factory=list)
    """What was called for it here."""

    @property
    def calls(self) -> Sequence[ToolCall]:
        """Of the caller's tools."""
        return self.reply.message.get("tool_calls", ())

    @property
    def finish_reason(self) -> FinishReason:
        message, reason = self.reply.message, self.reply.finish_reason
        cut = self.text != message["content"]
        not_theirs = reason == FinishReason.TOOL_CALLS and not message.get("tool_calls")
        return FinishReason.STOP if cut or not_theirs else reason


class Answering:
    """The ``n`` answers to one request."""

    def __init__(self, call: Call, request: Question, lease: Lease, response_id: str | None = None) -> None:
        serve_as(call.services, call.key, lease.entry, response_id)
        self.request = request
        self._tools = request.offered()
        self._messages = request.conversation()
        if Capability.TOKEN_IDS in lease.agent.backend.capabilities:
            self._messages = speakers_in_text(self._messages)
        models: ModelPool = call.services.models
        own = lease.entry.instructed
        telemetry = call.services.telemetry
        self._agent = replace(
            lease.agent,
            strategy=models.strategy if own else Strategy("plain"),
            tools=models.agents_tools if own and request.wants_agents_tools() else (),
            sampling=request.sampling(models.sampling(lease.entry)),
            limits=models.limits,
            instruments=telemetry.instruments if telemetry is not None else None,
        )
        self._check(self._messages)
        self._id = call.request_id

    def _check(self, conversation: Sequence[Message]) -> None:
        model = self._agent.backend.model
        characters = sum(len(message["content"]) for message in conversation)
        if characters > model.context * MOST_CHARACTERS:
            raise ContextOverflowError(
                f"{characters} characters cannot fit into the context of {model.context} tokens"
            )
        can = self._agent.backend.capabilities
        if self._tools and not {Capability.TOOLS, Capability.TOKEN_IDS} & can:
            names = ", ".join(tool["function"]["name"] for tool in self._tools)
            message = f"this model takes no tools of the caller: {names}. Leave out tools"
            raise ApiError(400, "unsupported", message, param="tools")
        if self._agent.tools and not {Capability.TOOLS, Capability.TOKEN_IDS} & can:
            message = 'this model takes no tools, and the agent has some; send "tool_choice": "none"'
            raise ApiError(400, "unsupported", message, param="tool_choice")
        self._check_constraints(can)
        if self.request.logprobs and Capability.TOKEN_IDS not in can:
            raise ApiError(400, "unsupported", "this model tells no log-probs", param="logprobs")

    def _check_constraints(self, can: frozenset[Capability]) -> None:
        sampling = self._agent.sampling
        names = [tool["function"]["name"] for tool in self._tools]
        forced = sampling.tool_choice not in ("auto", "none")
        if forced and (not names or sampling.tool_choice not in ("required", *names)):
            named = f'the tool "{sampling.tool_choice}"' if sampling.tool_choice != "required" else "a tool"
            message = f"tool_choice asks for {named}, and tools offers {', '.join(names) or 'none'}"
            raise ApiError(400, "invalid_request", message, param="tool_choice")
        if sampling.constrained and Capability.STRUCTURED not in can:
            param = "tool_choice" if forced else self.request.FORMAT
            what = "made to call a tool" if forced else "held to JSON"
            raise ApiError(400, "unsupported", f"{param}: this model cannot be {what}", param=param)

    async def all(self, on_text: Callable[[int], OnText | None] = lambda _: None) -> list[Answer]:
        """Every answer; if one fails, the others are given up."""
        number = self.request.n or 1
        if number == 1:
            return [await self._one(0, on_text(0))]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(index, on_text(index))) for index in range(number)]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, index: int, on_text: OnText | None) -> Answer:
        agent = self._agent
        if index and agent.sampling.seed is not None:
            seed = derive_seed(agent.sampling.seed, index)
            agent = replace(agent, sampling=replace(agent.sampling, seed=seed))
        return await (self._acted(agent, on_text) if agent.tools else self._replied(agent, on_text))

    async def _replied(self, agent: Agent, on_text: OnText | None) -> Answer:
        """The answer of the model, which may call the caller's tools."""
        conversation = agent.open(offered=self._tools, history=self._messages)
        until = StopSequences(agent.sampling.stop, on_text)
        reply = await conversation.respond((), until if on_text else None)
        message = as_written(reply.message)
        reply = replace(reply, message=message)
        text = until.end(reply.message["content"])
        return Answer(reply, conversation.session, text, reply.completion_tokens)

    async def _acted(self, agent: Agent, on_text: OnText | None) -> Answer:
        """The answer of the whole agent: it calls its tools until it speaks."""
        sampling = agent.sampling
        conversation = agent.open(history=self._messages, seed=sampling.seed, id=self._id)
        voice = Voice(on_text or (lambda _: None))
        until = StopSequences(sampling.stop, voice)

        def next_message(_: list[Message]) -> None:
            nonlocal until
            if conversation.turns:
                until.end(next(m["content"] for m in reversed(conversation.said) if m["role"] == "assistant"))
                voice.next_message()
                until = StopSequences(sampling.stop, voice)

        conversation.prepare = next_message
        with agent_errors():
            message = await conversation.act((), None if on_text is None else lambda text: until(text))
        turns = conversation.turns
        reply = Reply(
            message,
            turns[-1].finish_reason,
            sum(turn.prompt_tokens for turn in turns),
            sum(turn.completion_tokens for turn in turns),
        )
        text = until.end(message["content"])
        return Answer(reply, conversation.session, text, turns[-1].completion_tokens, conversation.used)

    def choice(self, index: int, answer: Answer) -> Choice:
        return Choice(
            index=index,
            message=MessageOut.of(answer.text, answer.calls, shown(answer.tools)),
            finish_reason=answer.finish_reason.value,
            logprobs=self._logprobs(answer) if self.request.logprobs else None,
        )

    def _logprobs(self, answer: Answer) -> Logprobs:
        ledger = answer.session.ledger()
        sequence = ledger.sequences[-1] if ledger else None
        if sequence is None:
            return Logprobs(content=[])
        decode = self._agent.backend.tokenizer.decode
        content = []
        for token, sampled, logprob in zip(sequence.ids, sequence.mask, sequence.logprobs, strict=True):
            if sampled:
                text = decode([token])
                content.append(
                    TokenLogprob(token=text, logprob=logprob, bytes=list(text.encode()), top_logprobs=[])
                )
        return Logprobs(content=content[len(content) - answer.tokens :])


def usage_of(answers: list[Answer]) -> Usage:
    prompt = answers[0].reply.prompt_tokens
    completion = sum(answer.reply.completion_tokens for answer in answers)
    return Usage.of(prompt, completion)
