"""What the backends ``openai`` and ``litellm`` have in common, against a local server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from grpo_backends.errors import ProviderError
from grpo_backends.openai_http import OpenAIChatBackend
from grpo_sdk import ChatReply, ContextOverflowError, ModelSpec, Sampling, user
from grpo_sdk.backend import Backend, Capability
from grpo_sdk.messages import image_part, text_part

TOOL: Any = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}
ASK = [user("Hi")]
Make = Callable[..., Backend]

pytestmark = [
    # litellm and its dependencies: their own deprecations and pydantic models
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]


async def ask(make: Make, serve: Any, *answers: Any, options: Any = None, **call: Any) -> Any:
    """The reply (or what it raises) and the server, after one ``chat``."""

    async with serve(*answers) as server:
        backend = make(server.base_url, **(options or {}))
        await backend.start()
        try:
            call.setdefault("sampling", Sampling())
            call.setdefault("messages", ASK)
            reply: Any = await backend.chat(**call)
        except Exception as problem:  # the test says which
            reply = problem
        finally:
            await backend.close()
        return reply, server


async def test_an_answer_comes_back_with_its_usage(make, chat_server, protocol) -> None:
    reply, server = await ask(make, chat_server, protocol.completion("Hello."))
    assert reply.message == {"role": "assistant", "content": "Hello."}
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("stop", 11, 7)
    assert server.requests[0]["model"] == "mock"
    assert server.requests[0]["messages"] == [{"role": "user", "content": "Hi"}]


async def test_images_are_sent_as_openais_content(make, chat_server, protocol) -> None:
    shown = [text_part("What is this?"), image_part("https://example.org/cat.png")]
    _, server = await ask(make, chat_server, protocol.completion(), messages=[user(shown)])
    assert server.requests[0]["messages"] == [{"role": "user", "content": shown}]


async def test_sampling_settings_are_sent(make, chat_server, protocol) -> None:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, stop=("END",), seed=3)
    _, server = await ask(make, chat_server, protocol.completion(), sampling=sampling)
    sent = server.requests[0]
    wanted = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "seed": 3}
    assert {name: sent.get(name) for name in wanted} == wanted


async def test_tools_are_offered_and_their_calls_come_back_exactly(make, chat_server, protocol) -> None:
    answer = protocol.completion(None, tool_calls=[protocol.LOOKUP])
    reply, server = await ask(make, chat_server, answer, tools=[TOOL])
    assert server.requests[0]["tools"] == [TOOL]
    assert reply.message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [protocol.LOOKUP],
    }
    assert reply.finish_reason == "tool_calls"


async def test_a_tools_schema_may_hold_integers_of_any_size(make, chat_server, protocol) -> None:
    schema = {"type": "object", "properties": {"id": {"type": "integer", "maximum": 2**70}}}
    tool = {"type": "function", "function": {"name": "lookup", "parameters": schema}}
    _, server = await ask(make, chat_server, protocol.completion(), tools=[tool])
    assert server.requests[0]["tools"] == [tool]


async def test_a_cut_answer_says_length(make, chat_server, protocol) -> None:
    reply, _ = await ask(make, chat_server, protocol.completion("Hel", finish_reason="length"))
    assert reply.finish_reason == "length"


async def test_a_rate_limit_is_tried_again_as_the_server_asks(make, chat_server, protocol) -> None:
    busy = protocol.Refusal(429, "slow down", {"retry-after": "0.01"})
    reply, server = await ask(make, chat_server, busy, busy, protocol.completion("At last."))
    assert reply.message["content"] == "At last."
    assert len(server.requests) == 3


async def test_a_rate_limit_that_stays_is_a_clear_error(make, chat_server, protocol) -> None:
    busy = protocol.Refusal(429, "slow down", {"retry-after": "0"})
    problem, server = await ask(make, chat_server, busy, options={"retries": 1})
    assert isinstance(problem, ProviderError)
    assert "slow down" in str(problem)
    assert "oncurrency" in str(problem)
    assert len(server.requests) == 2


async def test_a_server_error_is_tried_again(make, chat_server, protocol) -> None:
    broken = protocol.Refusal(503, "starting", {"retry-after": "0.01"})
    reply, _ = await ask(make, chat_server, broken, protocol.completion("Up."))
    assert reply.message["content"] == "Up."


async def test_a_server_that_asks_to_wait_for_long_is_not_asked_again(make, chat_server, protocol) -> None:
    busy = protocol.Refusal(429, "slow down", {"retry-after": "3600"})
    problem, server = await ask(make, chat_server, busy)
    assert isinstance(problem, ProviderError)
    assert "asks to wait 3600 s" in str(problem)
    assert "lower the concurrency, or try again later" in str(problem)
    assert len(server.requests) == 1


async def test_a_stream_that_is_refused_for_now_is_tried_again(make, chat_server, protocol) -> None:
    async def go() -> Any:
        busy = protocol.Refusal(503, "starting", {"retry-after": "0.01"})
        said = [protocol.chunk({"content": "Up."}, "stop"), "[DONE]"]
        async with chat_server(busy, said) as server:
            backend = make(server.base_url)
            await backend.start()
            try:
                return [part async for part in backend.stream(ASK, Sampling())][-1], server
            finally:
                await backend.close()

    reply, server = await go()
    assert reply.message["content"] == "Up."
    assert len(server.requests) == 2


async def test_a_refused_key_names_the_key_and_is_not_tried_again(make, chat_server, protocol) -> None:
    problem, server = await ask(make, chat_server, protocol.Refusal(401, "bad key"))
    assert isinstance(problem, ProviderError)
    assert "bad key" in str(problem)
    assert "Check api_key" in str(problem)
    assert len(server.requests) == 1


async def test_the_key_is_sent(make, chat_server, protocol) -> None:
    _, server = await ask(make, chat_server, protocol.completion(), options={"api_key": "k1"})
    assert server.headers[0]["authorization"] == "Bearer k1"


async def test_an_unknown_model_is_named(make, chat_server, protocol) -> None:
    problem, _ = await ask(make, chat_server, protocol.Refusal(404, "The model does not exist"))
    assert isinstance(problem, ProviderError)
    assert "mock" in str(problem)


async def test_a_conversation_too_long_is_an_overflow(make, chat_server, protocol) -> None:
    words = "This model's maximum context length is 8192 tokens."
    problem, _ = await ask(make, chat_server, protocol.Refusal(400, words))
    assert isinstance(problem, ContextOverflowError)


async def test_a_server_that_is_not_there_is_named_with_its_address(make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def go() -> None:
        backend = make(f"http://127.0.0.1:{port}/v1", retries=0)
        await backend.start()
        try:
            await backend.chat(ASK, Sampling())
        finally:
            await backend.close()

    with pytest.raises(ProviderError, match=f"127.0.0.1:{port}.*server listens"):
        await go()


async def test_a_slow_server_is_a_clear_error(make, chat_server) -> None:
    problem, _ = await ask(make, chat_server, 5.0, options={"timeout": 0.2, "retries": 0})
    assert isinstance(problem, ProviderError)
    assert "0.2 s" in str(problem)


async def streamed(make: Make, serve: Any, events: list[Any]) -> list[str | ChatReply]:
    async with serve(events) as server:
        backend = make(server.base_url)
        await backend.start()
        try:
            return [item async for item in backend.stream(ASK, Sampling(), [TOOL])]
        finally:
            await backend.close()


async def test_text_streams_and_the_whole_reply_comes_last(make, chat_server, protocol) -> None:
    chunk = protocol.chunk
    usage = {**chunk({}), "choices": [], "usage": protocol.completion()["usage"]}
    events = [
        chunk({"role": "assistant", "content": "Hel"}),
        chunk({"content": "lo."}),
        chunk({}, "stop"),
        usage,
        "[DONE]",
    ]
    *texts, reply = await streamed(make, chat_server, events)
    assert texts == ["Hel", "lo."]
    assert isinstance(reply, ChatReply)
    assert reply.message == {"role": "assistant", "content": "Hello."}
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)


async def test_a_streamed_tool_call_is_put_together(make, chat_server, protocol) -> None:
    def piece(function: dict[str, str], **more: str) -> dict[str, Any]:
        return protocol.chunk({"tool_calls": [{"index": 0, "function": function, **more}]})

    events = [
        piece({"name": "lookup", "arguments": ""}, id="call_1", type="function"),
        piece({"arguments": '{"id"'}),
        piece({"arguments": ": 1}"}),
        protocol.chunk({}, "tool_calls"),
        "[DONE]",
    ]
    (reply,) = await streamed(make, chat_server, events)
    assert isinstance(reply, ChatReply)
    assert reply.message.get("tool_calls") == [protocol.LOOKUP]
    assert reply.finish_reason == "tool_calls"


async def test_backends_one_after_the_other_in_one_loop_both_answer(make, chat_server, protocol) -> None:
    async def go() -> list[str]:
        said = []
        async with chat_server(protocol.completion("Again.")) as server:
            for _ in range(2):
                backend = make(server.base_url)
                await backend.start()
                said.append((await backend.chat(ASK, Sampling())).message["content"])
                await backend.close()
        return said

    assert await go() == ["Again.", "Again."]


async def test_closing_one_backend_leaves_another_working(make, chat_server, protocol) -> None:
    async def go() -> str:
        async with chat_server(protocol.completion("Still here.")) as server:
            first, second = make(server.base_url), make(server.base_url)
            await first.start()
            await second.start()
            await second.chat(ASK, Sampling())
            await first.close()
            try:
                return (await second.chat(ASK, Sampling())).message["content"]
            finally:
                await second.close()

    assert await go() == "Still here."


async def test_a_stream_that_breaks_before_it_begins_is_tried_again() -> None:
    """What was heard is never repeated; of a refused connection nothing was heard."""

    async def go() -> tuple[int, list[Any]]:
        asked = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            await reader.readuntil(b"\r\n\r\n")
            if asked > 1:
                choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
                event = json.dumps({"choices": [choice]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: " + event + b"\n\n")
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        backend = OpenAIChatBackend(ModelSpec("m"), base_url=f"http://127.0.0.1:{port}/v1")
        await backend.start()
        try:
            items = [item async for item in backend.stream(ASK, Sampling())]
        finally:
            await backend.close()
            server.close()
        return asked, items

    asked, (text, _) = await go()

    assert (asked, text) == (2, "Hi")


SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, {}),
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": "lookup", "parallel_tool_calls": False},
            {
                "tool_choice": {"type": "function", "function": {"name": "lookup"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"json_schema": {}}, {"response_format": {"type": "json_object"}}),
        (
            {"json_schema": SCHEMA},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
    ],
)
async def test_forced_tools_and_schemas_go_along_in_the_providers_words(
    make, chat_server, protocol, said, sent
) -> None:
    sampling = Sampling(**said)
    _, server = await ask(make, chat_server, protocol.completion(), sampling=sampling, tools=[TOOL])
    fields = ("tool_choice", "parallel_tool_calls", "response_format")
    assert {name: server.requests[0][name] for name in fields if name in server.requests[0]} == sent


def test_it_says_that_it_constrains(make) -> None:
    assert Capability.STRUCTURED in make("http://127.0.0.1:9/v1").capabilities
