"""The scripted backend, and the backend contract on backends that break it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import ClassVar
from unittest import SkipTest

import pytest

from grpo_sdk import (
    Backend,
    Capability,
    ChatReply,
    ContextOverflowError,
    FinishReason,
    ModelSpec,
    Sampling,
    TokenReply,
    assistant,
    tool_call,
    user,
)
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import BackendContract, ScriptedBackend

ASKED = [user("Hi")]


class TestScripted(BackendContract):
    limits_answers = False

    def make(self) -> Backend:
        return ScriptedBackend(replies=["Hello! How are you?"])


class TestScriptedWithTools(BackendContract):
    limits_answers = False

    def make(self) -> Backend:
        return ScriptedBackend(replies=[assistant("", [tool_call("weather", '{"city": "Paris"}', "call_1")])])


class Letters:
    """A tokenizer of one token a character."""

    eos_token_id = 0
    chat_template = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) % 100 + 1 for letter in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, token_ids))


class Counting(Backend):
    """Samples the next ids after the last of the prompt."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.TOKEN_IDS, Capability.LOGPROBS, Capability.SEED, Capability.WEIGHT_SYNC}
    )
    tokenizer = Letters()

    def __init__(self) -> None:
        super().__init__(ModelSpec("counting", context=64))

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        if len(prompt) >= self.model.context:
            raise ContextOverflowError("the prompt leaves no room")
        await asyncio.sleep(0)
        ids: list[int] = []
        while len(ids) < sampling.max_tokens:
            ids.append(prompt[-1] + len(ids) + 1)
            if ids[-1] in sampling.stop_token_ids:
                return TokenReply(ids, [-0.5] * len(ids), "stop")
        return TokenReply(ids, [-0.5] * len(ids), "length")

    async def update_weights(self, weights, *, version: int) -> None:
        list(weights)


class TestCounting(BackendContract):
    def make(self) -> Backend:
        return Counting()

    def weights(self):
        return []


class MissingLogprob(Counting):
    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        reply = await super().generate(prompt, sampling)
        return TokenReply(reply.ids, reply.logprobs[1:], reply.finish_reason)


class DropsStopToken(Counting):
    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        reply = await super().generate(prompt, sampling)
        return TokenReply(reply.ids[:-1] or [1], reply.logprobs[:-1] or [-1.0], reply.finish_reason)


class IgnoresContext(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.model = ModelSpec("counting", context=10)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        return await super().generate(prompt[:4], sampling)


class Overpromises(Counting):
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})


class HidesChat(ScriptedBackend):
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.SEED})


@pytest.mark.parametrize(
    ("backend", "test", "message"),
    [
        (MissingLogprob, "test_generate_returns_ids_and_their_logprobs", "11 logprobs for 12 ids"),
        (DropsStopToken, "test_generation_stops_at_a_stop_token", "asked to stop at"),
        (IgnoresContext, "test_a_prompt_longer_than_the_context_is_refused", "yet nothing was raised"),
        (Overpromises, "test_capabilities_go_together", "logprobs is announced without token_ids"),
        (HidesChat, "test_what_is_not_announced_is_refused", "chat is not announced"),
    ],
)
def test_the_contract_finds_what_is_broken(backend, test, message):
    class Contract(BackendContract):
        def make(self) -> Backend:
            return backend()

    try:
        with pytest.raises(AssertionError) as raised:
            getattr(Contract(), test)()
        assert message in str(raised.value)
    finally:
        Contract.teardown_class()


def test_the_contract_skips_what_is_not_announced():
    class Contract(BackendContract):
        def make(self) -> Backend:
            return ScriptedBackend()

    try:
        with pytest.raises(SkipTest, match="the backend has no token_ids"):
            Contract().test_greedy_generation_repeats_itself()
    finally:
        Contract.teardown_class()


async def test_replies_follow_the_turns_and_the_last_is_repeated():
    async def ask() -> list[str]:
        backend = ScriptedBackend(replies=["one", "two"])
        said = list(ASKED)
        for _ in range(3):
            said.append((await backend.chat(said, Sampling())).message)
        assert backend.calls == 3
        return [message["content"] for message in said[1:]]

    assert await ask() == ["one", "two", "two"]


async def test_a_script_sees_the_conversation_and_the_tools():
    def script(messages, tools):
        return json.dumps([len(messages), len(tools)])

    reply = await ScriptedBackend(script=script).chat(ASKED, Sampling(), [{}, {}])
    assert reply.message["content"] == "[1, 2]"


async def test_a_tool_call_is_the_finish_reason():
    said = assistant("", [tool_call("f", "{}", "c")])
    reply = await ScriptedBackend(replies=[said]).chat(ASKED, Sampling())
    assert reply.finish_reason == "tool_calls"


async def test_a_stream_is_words_and_the_reply():
    *words, last = [item async for item in ScriptedBackend(replies=["a b"]).stream(ASKED, Sampling())]
    assert "".join(words).strip() == "a b"
    assert isinstance(last, ChatReply)


def test_a_script_without_replies_is_refused():
    with pytest.raises(ValueError, match="at least one reply, or a script"):
        ScriptedBackend(replies=[])


async def test_a_refusal_names_the_backend_and_what_it_can_do():
    with pytest.raises(CapabilityError, match="ScriptedBackend has no weight_sync; it can: chat, seed"):
        await ScriptedBackend().update_weights([], version=1)


def test_a_reply_takes_the_text_of_a_finish_reason_and_no_other():
    assert TokenReply([1], [-1.0], "length").finish_reason is FinishReason.LENGTH
    with pytest.raises(ValueError, match="'content_filter' is not a valid FinishReason"):
        ChatReply(assistant("No."), "content_filter")


@pytest.mark.parametrize(
    ("said", "constrained"),
    [
        ({}, False),
        ({"tool_choice": "none"}, False),
        ({"parallel_tool_calls": False}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "weather"}, True),
        ({"json_schema": {}}, True),
        ({"grammar": 'root ::= "yes"'}, True),
    ],
)
def test_sampling_says_whether_it_needs_a_backend_that_constrains(said, constrained):
    sampling = Sampling(**said)
    assert sampling.constrained is constrained
    assert hash(sampling) == hash(Sampling(**said))


CALL = tool_call("weather", "{}", "call_1")


@pytest.mark.parametrize(
    ("reply", "asked", "said"),
    [
        ("Hi", {"tool_choice": "required"}, r"calls \[\], and tool_choice is 'required'"),
        (assistant("", [CALL]), {"tool_choice": "clock"}, r"calls \['weather'\], and tool_choice is 'clock'"),
        (assistant("", [CALL]), {"tool_choice": "none"}, "tool_choice is 'none'"),
        (assistant("", [CALL, CALL]), {"parallel_tool_calls": False}, "parallel_tool_calls is False"),
        ("Hi", {"json_schema": {}}, "says 'Hi', which is no JSON"),
    ],
)
async def test_a_structured_script_that_does_not_do_what_it_was_asked_is_an_error(reply, asked, said):
    backend = ScriptedBackend(replies=[reply], structured=True)
    with pytest.raises(ValueError, match=said):
        await backend.chat(ASKED, Sampling(**asked))


class TestStructuredScript(BackendContract):
    limits_answers = False

    def make(self) -> Backend:
        def script(messages, tools):
            return assistant("", [CALL]) if tools else '{"size": 1, "open": true}'

        return ScriptedBackend(script=script, structured=True)
