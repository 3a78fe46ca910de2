"""Backends for plugins that ask for one: chat through token ids, and a start on demand."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from grpo_host.backends.on_demand import ChatThroughTokens, OnDemandBackend
from grpo_sdk import Backend, Capability, ContextOverflowError, ModelSpec, Sampling, system, user
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import BackendContract, ScriptedBackend
from grpo_sdk.testing.backend_contract import WEATHER

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
ASKED = [system("Be brief."), user("hello")]


async def ask(backend: Backend, *messages, tools=(), sampling=Sampling()):  # noqa: B008
    try:
        await backend.start()
        return await backend.chat(list(messages) or ASKED, sampling, tools)
    finally:
        await backend.close()


class TestOnDemand(BackendContract):
    limits_answers = False

    def make(self):
        return OnDemandBackend(ScriptedBackend())


async def test_a_token_backend_chats(fakes):
    tokens = fakes.TokenBackend(fakes.PieceTokenizer(), "the order")
    reply = await ask(ChatThroughTokens(tokens))
    assert reply.message == {"role": "assistant", "content": "the order"}
    [call] = tokens.calls
    prompt = tokens.tokenizer.decode(call.prompt)
    assert prompt.endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(call.prompt), len(call.reply.ids))


async def test_a_token_backend_calls_tools(fakes):
    reply = await ask(ChatThroughTokens(fakes.TokenBackend(fakes.PieceTokenizer(), CALL)), tools=[WEATHER])
    [call] = reply.message["tool_calls"]
    assert (call["function"]["name"], reply.finish_reason) == ("weather", "tool_calls")


async def test_an_answer_that_is_cut_off_says_so(fakes):
    backend = ChatThroughTokens(fakes.TokenBackend(fakes.PieceTokenizer(), "the order"))
    assert (await ask(backend, sampling=Sampling(max_tokens=1))).finish_reason == "length"


async def test_a_conversation_that_is_too_long_for_the_context_is_refused(fakes):
    tokens = fakes.TokenBackend(fakes.PieceTokenizer(), "no", context=10)
    with pytest.raises(ContextOverflowError):
        await ask(ChatThroughTokens(tokens))


def test_a_backend_that_chats_needs_no_rendering():
    with pytest.raises(CapabilityError, match="ScriptedBackend does not speak token ids"):
        ChatThroughTokens(ScriptedBackend())


async def test_a_token_backend_chats_on_demand(fakes):
    backend = OnDemandBackend(fakes.TokenBackend(fakes.PieceTokenizer(), "the order"))
    assert backend.capabilities == {Capability.CHAT, Capability.TOOLS}
    assert (await ask(backend)).message["content"] == "the order"


def test_a_backend_that_cannot_chat_is_refused():
    class Mute(Backend):
        capabilities = frozenset({Capability.SEED})

    with pytest.raises(CapabilityError, match="Mute can neither chat nor speak token ids"):
        OnDemandBackend(Mute(ModelSpec("mute")))


class Slow(ScriptedBackend):
    """Takes its time to start; the first ``failures`` starts fail."""

    def __init__(self, seconds: float = 0.0, failures: int = 0) -> None:
        super().__init__(replies=["ready"])
        self.seconds, self.failures = seconds, failures
        self.starts = self.closed = 0

    async def start(self) -> None:
        self.starts += 1
        await asyncio.sleep(self.seconds)
        if self.starts <= self.failures:
            raise OSError("no model")

    async def close(self) -> None:
        self.closed += 1


async def test_it_starts_once_for_many_callers():
    slow = Slow(0.02)
    backend = OnDemandBackend(slow)

    assert not backend.started
    await asyncio.gather(*(backend.chat(ASKED, Sampling()) for _ in range(20)))
    await backend.close()
    assert (slow.starts, slow.calls, slow.closed) == (1, 20, 1)


async def test_a_caller_that_gives_up_does_not_end_the_start():
    slow = Slow(0.1)
    backend = OnDemandBackend(slow)

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backend.chat(ASKED, Sampling()), 0.01)
        reply = await backend.chat(ASKED, Sampling())
        await backend.close()
        return reply

    assert (await impatient()).message["content"] == "ready"
    assert slow.starts == 1


async def test_a_start_that_failed_is_tried_again():
    slow = Slow(failures=1)
    backend = OnDemandBackend(slow)

    async def again():
        with pytest.raises(OSError, match="no model"):
            await backend.chat(ASKED, Sampling())
        reply = await backend.chat(ASKED, Sampling())
        await backend.close()
        return reply

    assert (await again()).message["content"] == "ready"


def test_one_event_loop_after_another_may_ask():
    backend = OnDemandBackend(Slow())
    replies = [asyncio.run(backend.chat(ASKED, Sampling())) for _ in range(3)]
    asyncio.run(backend.close())
    assert [reply.message["content"] for reply in replies] == ["ready"] * 3


async def test_closing_what_never_started_closes_nothing():
    slow = Slow()
    await OnDemandBackend(slow).close()
    assert slow.closed == 0


def test_a_backend_that_nobody_holds_any_more_is_closed():
    slow = Slow()
    backend = OnDemandBackend(slow)
    asyncio.run(backend.chat(ASKED, Sampling()))
    del backend
    gc.collect()
    deadline = time.monotonic() + 10
    while not slow.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert slow.closed == 1


@pytest.mark.model
async def test_the_embedded_model_chats_on_demand(model_path):
    from grpo_backends.transformers_engine import TransformersBackend

    spec = ModelSpec("smollm2-135m", path=model_path, context=512)
    backend = OnDemandBackend(TransformersBackend(spec))
    question = user("What is the capital of France? Answer with one word.")
    reply = await ask(backend, question, sampling=Sampling(max_tokens=12, temperature=0.0))
    assert "Paris" in reply.message["content"]
