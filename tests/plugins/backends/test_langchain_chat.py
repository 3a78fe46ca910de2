from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError as LangChainContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from pydantic import Field

from grpo_backends.errors import ProviderError
from grpo_backends.langchain_chat import LangChainBackend
from grpo_sdk import (
    ChatReply,
    ConfigError,
    ContextOverflowError,
    ModelSpec,
    Sampling,
    assistant,
    tool_call,
    user,
)
from grpo_sdk.backend import Backend
from grpo_sdk.testing import BackendContract

TOOL: Any = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}
ASK = [user("Hi")]


class Scripted(BaseChatModel):
    """Says ``reply`` and keeps what it was called with."""

    reply: Any = AIMessage("Hello there.")
    asked: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools, **kwargs)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.asked.append((messages, {"stop": stop, **kwargs}))
        if isinstance(self.reply, Exception):
            raise self.reply
        return ChatResult(generations=[ChatGeneration(message=self.reply.model_copy())])


class TestLangChain(BackendContract):
    limits_answers = False

    def make(self) -> Backend:
        return LangChainBackend(Scripted())


def chat(
    model: Any, sampling: Sampling | None = None, messages: Any = ASK, tools: Any = (), **options: Any
) -> ChatReply:
    async def go() -> ChatReply:
        backend = LangChainBackend(model, **options)
        await backend.start()
        try:
            return await backend.chat(messages, sampling or Sampling(), tools)
        finally:
            await backend.close()

    return asyncio.run(go())


def test_settings_and_messages_reach_the_model():
    model = Scripted(asked=[])
    heard = [user("Hi"), assistant("", [tool_call("lookup", "{}", "a1")]), user("And?")]

    chat(model, Sampling(max_tokens=9, temperature=0.5, top_p=0.9, stop=("x",), seed=3), heard)

    ((messages, settings),) = model.asked
    assert [message.type for message in messages] == ["human", "ai", "human"]
    assert messages[1].tool_calls[0]["name"] == "lookup"
    assert settings == {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 3}


def test_settings_that_a_model_does_not_take_are_left_out():
    model = Scripted(asked=[])

    chat(model, Sampling(seed=1), leave_out=["temperature", "seed"])

    assert model.asked[0][1] == {"max_tokens": 128, "stop": None}


def test_tools_are_offered_and_their_calls_come_back_with_the_tokens():
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    called = AIMessage(
        "", tool_calls=[{"name": "lookup", "args": {"id": 1}, "id": "a1"}], usage_metadata=usage
    )
    model = Scripted(reply=called, asked=[])

    reply = chat(model, tools=[TOOL])

    assert model.asked[0][1]["tools"] == [TOOL]
    assert reply.message == assistant("", [tool_call("lookup", '{"id": 1}', "a1")])
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("tool_calls", 5, 2)


def test_tools_that_may_not_be_called_are_not_offered():
    model = Scripted(asked=[])

    chat(model, Sampling(tool_choice="none"), tools=[TOOL])

    assert "tools" not in model.asked[0][1]


@pytest.mark.parametrize("said", [{"finish_reason": "length"}, {"stop_reason": "max_tokens"}])
def test_an_answer_that_was_cut_says_so(said):
    assert chat(Scripted(reply=AIMessage("Hel", response_metadata=said))).finish_reason == "length"


def test_a_failure_of_the_providers_library_is_one_of_a_provider():
    class RateLimitError(Exception):
        status_code = 429

    with pytest.raises(ProviderError, match="RateLimitError: slow down") as caught:
        chat(Scripted(reply=RateLimitError("slow down")))
    assert caught.value.status == 429


def test_a_conversation_that_is_too_long_is_told_from_other_failures():
    with pytest.raises(ContextOverflowError, match="too long"):
        chat(Scripted(reply=LangChainContextOverflowError("too long")))


def test_the_profile_of_a_model_tells_its_context():
    assert LangChainBackend(Scripted(profile={"max_input_tokens": 77})).model == ModelSpec(
        "Scripted", context=77
    )


def test_a_call_is_none_of_the_run_that_it_is_made_in():
    """The run that asks for it tells its callbacks itself, which would hear of it twice."""
    starts = []

    class Heard(BaseCallbackHandler):
        def on_chat_model_start(self, *arguments, **kwargs):
            starts.append(arguments)

    RunnableLambda(lambda _: chat(Scripted())).invoke("x", {"callbacks": [Heard()]})

    assert not starts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody:gpt", r'"nobody:gpt": Unable to infer model provider[^\n]*Name it as LangChain does'),
        ("mistralai:x", r'the chat model "mistralai:x": .*langchain.mistralai'),
    ],
)
def test_a_model_that_langchain_cannot_make_is_a_configuration_error(name, message):
    with pytest.raises(ConfigError, match=message):
        chat(ModelSpec(name))


def test_a_setting_that_there_is_not_cannot_be_left_out():
    with pytest.raises(ConfigError, match="leave_out names temprature, and can name max_tokens"):
        LangChainBackend(ModelSpec("x"), leave_out=["temprature"])


async def test_it_must_be_started():
    with pytest.raises(RuntimeError, match="await start"):
        await LangChainBackend(ModelSpec("openai:x")).chat(ASK, Sampling())


async def test_a_model_of_openais_protocol_answers_whole_and_in_pieces(chat_server, protocol):
    pieces = [
        protocol.chunk({"role": "assistant", "content": "Hel"}),
        protocol.chunk({"content": "lo."}),
        protocol.chunk({}, "stop"),
        "[DONE]",
    ]
    async with chat_server(protocol.completion(tool_calls=[protocol.LOOKUP]), pieces) as server:
        options = {"base_url": server.base_url, "api_key": "none", "max_retries": 0}
        backend = LangChainBackend(ModelSpec("openai:mock"), parameters=options)
        await backend.start()

        reply = await backend.chat(ASK, Sampling(), [TOOL])
        streamed = [piece async for piece in backend.stream(ASK, Sampling())]
        await backend.close()

    assert reply.message["tool_calls"][0]["function"]["name"] == "lookup"
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert streamed[:-1] == ["Hel", "lo."]
    assert streamed[-1].message == assistant("Hello.")
    assert server.requests[0]["tools"][0]["function"]["name"] == "lookup"
