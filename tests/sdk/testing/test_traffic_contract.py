"""The contract of backends names each of these mistakes with many calls, and says how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from grpo_sdk import Backend, Capability, ChatReply, ModelSpec, Sampling, TokenReply, assistant
from grpo_sdk.testing import BackendContract
from grpo_sdk.testing.token_backend import TokenBackend


class Parrot(Backend):
    """Makes no mistake: it says the last word of what it is asked."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CHAT, Capability.SEED})

    def __init__(self) -> None:
        super().__init__(ModelSpec("parrot"))

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        await asyncio.sleep(0)
        return ChatReply(assistant(messages[-1]["content"].split()[-1]))


class TestOneWithoutAMistake(BackendContract):
    def make(self) -> Backend:
        return Parrot()


class MixesUp(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        self.messages = messages
        await asyncio.sleep(0)
        return await super().chat(self.messages, sampling, tools)


class Talkative(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        return ChatReply(assistant("I have a lot to say."))


class ForgetsSeed(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        return ChatReply(assistant(str(random.random())))


class SharesGenerator(Parrot):
    """Right as long as nobody else asks."""

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        random.seed(sampling.seed)
        await asyncio.sleep(0)
        return ChatReply(assistant(str(random.random())))


class KeepsItsLock(Parrot):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        await self.lock.acquire()
        reply = await super().chat(messages, sampling, tools)
        self.lock.release()
        return reply


class FailsBesideCancelled(Parrot):
    """All calls share one request, which a cancellation ends for all of them."""

    shared: asyncio.Task[ChatReply] | None = None

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        if self.shared is None or self.shared.done():
            self.shared = asyncio.ensure_future(super().chat(messages, sampling, tools))
        return await self.shared


class AddsSystemMessage(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        messages[0]["content"] = "Be brief. " + messages[0]["content"]
        return await super().chat(messages, sampling, tools)


class Blocking(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        time.sleep(0.04)  # noqa: ASYNC251
        return await super().chat(messages, sampling, tools)


class TriesAgain(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        while True:
            try:
                await asyncio.sleep(0.03)
                return await super().chat(messages, sampling, tools)
            except:  # noqa: E722
                await asyncio.sleep(0)


class Stubborn(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)


class NoSuper(Parrot):
    def __init__(self) -> None: ...


class PlainStart(Parrot):
    def start(self) -> Any: ...


class SaysText(Parrot):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> Any:
        return "Hi."


class Tokens(TokenBackend):
    def __init__(self) -> None:
        super().__init__(ModelSpec("tokens"))


class MixesUpTokens(Tokens):
    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        self.prompt = prompt
        await asyncio.sleep(0)
        return await super().generate(self.prompt, sampling)


class IgnoresMaxTokens(Tokens):
    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        return await super().generate(prompt, Sampling(max_tokens=12, temperature=0.0))


class AppendsToPrompt(Tokens):
    async def generate(self, prompt: Any, sampling: Sampling) -> TokenReply:
        reply = await super().generate(prompt, sampling)
        prompt += reply.ids
        return reply


@pytest.mark.parametrize(
    ("mistake", "test", "message"),
    [
        (MixesUp, "test_conversations_side_by_side_are_not_mixed_up", "chat answered 'What is the capital"),
        (MixesUpTokens, "test_conversations_side_by_side_are_not_mixed_up", "conversations are mixed up"),
        (Talkative, "test_an_answer_has_at_most_max_tokens", "the answer has at least 6 tokens: 'I have"),
        (IgnoresMaxTokens, "test_an_answer_has_at_most_max_tokens", "12 ids, 2 allowed"),
        (ForgetsSeed, "test_a_seed_repeats_a_sample", "two samples of one seed differ"),
        (SharesGenerator, "test_a_seed_repeats_a_sample", "they seed a generator that the requests share"),
        (KeepsItsLock, "test_a_cancelled_call_leaves_the_backend_usable", "no answer within 0.2 s to chat"),
        (FailsBesideCancelled, "test_a_cancelled_call_leaves_the_backend_usable", "as others were cancelled"),
        (AddsSystemMessage, "test_what_is_asked_is_not_changed", "chat() changed messages: [{'role'"),
        (AppendsToPrompt, "test_what_is_asked_is_not_changed", "generate() changed the prompt from ["),
        (NoSuper, "test_capabilities_go_together", "its __init__ does not call super().__init__(model)"),
        (PlainStart, "test_capabilities_go_together", 'start() is a plain function: write "async def start"'),
        (SaysText, "test_chat_answers_with_a_message", "chat() must return a ChatReply, not str"),
        (TriesAgain, "test_a_time_limit_ends_it", "what it gives then counts as if it had come in time"),
        (Stubborn, "test_a_time_limit_ends_it", "chat() catches its cancellation and goes on"),
        (Stubborn, "test_a_cancelled_call_leaves_the_backend_usable", "no answer within 0.2 s to chat"),
        (Blocking, "test_the_event_loop_is_not_blocked", "chat() blocked the event loop for 0."),
    ],
)
def test_each_mistake_is_named_with_its_mending(
    mistake: Any, test: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.05)

    class Contract(BackendContract):
        blocking_seconds = 0.02
        answer_seconds = 0.2 if mistake in (KeepsItsLock, Stubborn) else 30.0

        def make(self) -> Backend:
            made: Backend = mistake()
            return made

    try:
        with pytest.raises(AssertionError) as raised:
            getattr(Contract(), test)()
    finally:
        Contract.teardown_class()
    assert message in str(raised.value)
    assert "\nFix: " in str(raised.value)


class TestTheTokenBackend(BackendContract):
    def make(self) -> Backend:
        return Tokens()
