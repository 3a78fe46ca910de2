"""The backends ``openai`` and ``litellm`` read what servers really send, and send what they really take."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import Any

import pytest

from grpo_backends.errors import ProviderError
from grpo_backends.openai_http import OpenAIChatBackend
from grpo_sdk import ChatReply, ContextOverflowError, ModelSpec, Sampling, Task, Trajectory, user

TOOL: Any = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}
ASK = [user("Hi")]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]


@pytest.fixture
def ask(make, chat_server):
    """The reply (or what it raises) and the server, after ``times`` calls."""

    def ask(*answers: Any, times: int = 1, sampling: Sampling | None = None, stream: bool = False) -> Any:
        async def one(backend: Any) -> Any:
            if not stream:
                return await backend.chat(ASK, sampling or Sampling(), [TOOL])
            items = [item async for item in backend.stream(ASK, sampling or Sampling(), [TOOL])]
            assert "".join(items[:-1]) == items[-1].message["content"]
            return items[-1]

        async def go() -> Any:
            async with chat_server(*answers) as server:
                backend = make(server.base_url, retries=0)
                await backend.start()
                try:
                    for _ in range(times):
                        reply = await one(backend)
                except Exception as problem:  # the test says which
                    reply = problem
                finally:
                    await backend.close()
                return reply, server

        return asyncio.run(go())

    return ask


def call(name: Any = "lookup", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls_of(reply: ChatReply) -> list[tuple[str, str]]:
    assert isinstance(reply, ChatReply), reply
    functions = [each["function"] for each in reply.message.get("tool_calls", ())]
    return [(function["name"], function["arguments"]) for function in functions]


def read_back(reply: ChatReply) -> Trajectory:
    trajectory = Trajectory("t", "shop", Task("t"), "completed", "done", [user("Hi"), reply.message])
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    return trajectory


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]}, "Hello."),
        ({"content": [{"type": "thinking", "thinking": [{}]}, {"type": "text", "text": "Hello."}]}, "Hello."),
        ({"content": None, "refusal": "I will not."}, "I will not."),
        ({"content": "Cut \ud83d"}, "Cut \ufffd"),
        ({"content": "", "tool_calls": None, "annotations": [], "audio": None}, ""),
    ],
)
def test_content_is_text_in_whatever_form_it_comes(ask, protocol, message, text):
    answer = protocol.completion()
    answer["choices"][0]["message"] = {"role": "assistant", **message}
    reply, _ = ask({**answer, "error": None})
    if isinstance(message["content"], list) and isinstance(reply, ProviderError):
        # LiteLLM's own reader takes only texts: an error that says what to do, and nothing of its inside.
        assert str(reply).startswith("litellm ")
        assert "LiteLLM cannot read the answer" in str(reply)
        assert "The backend openai can" in str(reply)
        return
    assert isinstance(reply, ChatReply), reply
    assert reply.message["content"] == text
    read_back(reply)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [({"id": "A1"}, '{"id": "A1"}'), (None, ""), ("", "")],
)
def test_arguments_are_a_json_text_in_whatever_form_they_come(ask, protocol, said, arguments):
    reply, _ = ask(protocol.completion(None, tool_calls=[call(arguments=said, id=None)]))
    [(name, text)] = calls_of(reply)
    assert name == "lookup"
    assert json.loads(text or "{}") == json.loads(arguments or "{}")
    read_back(reply)


def test_half_a_surrogate_pair_in_arguments_can_be_read_back(ask, protocol):
    reply, _ = ask(protocol.completion(None, tool_calls=[call(arguments={"a": "\ud83d"})]))
    assert calls_of(reply)
    read_back(reply)


def test_ids_that_say_nothing_are_left_to_the_session(ask, protocol):
    calls = [call(id=""), call(id=None), call(id="c1"), call(id="c1")]
    reply, _ = ask(protocol.completion(None, tool_calls=calls))
    ids = [each["id"] for each in reply.message["tool_calls"]]
    assert len({id for id in ids if id}) == len([id for id in ids if id])
    read_back(reply)


def streamed(protocol: Any, *pieces: dict[str, Any], finish: str | None = "tool_calls") -> list[Any]:
    chunks = [{**protocol.chunk({"tool_calls": [piece]}), "error": None} for piece in pieces]
    return [*chunks, protocol.chunk({}, finish), "[DONE]"]


TWO = [("lookup", '{"id": 1}'), ("lookup", '{"id": 2}')]


@pytest.mark.parametrize(
    "pieces",
    [
        [call(arguments=text, id=f"c{n}", index=n) for n, (_, text) in enumerate(TWO)],
        [call(arguments=text, id=f"c{n}", index=0) for n, (_, text) in enumerate(TWO)],
        [call(arguments=text, index=0) for _, text in TWO],
        [call(arguments=text, id=f"c{n}", index=None) for n, (_, text) in enumerate(TWO)],
        [call(arguments=text, id=f"c{n}") for n, (_, text) in enumerate(TWO)],
        [
            piece
            for n, (_, text) in enumerate(TWO)
            for piece in (
                call(arguments=text[:4], id=f"c{n}", index=n),
                call(arguments=text[4:], id=f"c{n}", index=n),
            )
        ],
        [
            piece
            for n, (_, text) in enumerate(TWO)
            for piece in (
                call(arguments="", id=f"c{n}", index=n),
                {"index": n, "function": {"arguments": text}},
            )
        ],
    ],
    ids=[
        "numbered",
        "all zero",
        "all zero without ids",
        "null",
        "not numbered",
        "names repeated",
        "in pieces",
    ],
)
def test_streamed_calls_are_told_apart(ask, protocol, pieces):
    reply, _ = ask(streamed(protocol, *pieces), stream=True)
    assert calls_of(reply) == TWO
    read_back(reply)


def test_a_stream_that_ends_without_a_reason_has_ended_if_it_says_so(ask, protocol):
    reply, _ = ask([protocol.chunk({"content": "Hello."}), "[DONE]"], stream=True)
    assert isinstance(reply, ChatReply), reply
    assert reply.message["content"] == "Hello."


NEW_NAME = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)
ONLY_ONE = (
    "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value."
)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_provider_refuses_of_the_settings_is_learnt_once(ask, protocol, caplog, stream):
    good = [protocol.chunk({"content": "Hi"}, "stop"), "[DONE]"] if stream else protocol.completion()
    refusals = [protocol.Refusal(400, NEW_NAME), protocol.Refusal(400, ONLY_ONE)]
    with caplog.at_level(logging.WARNING, "grpo_backends"):
        reply, server = ask(
            *refusals, good, times=2, sampling=Sampling(max_tokens=9, temperature=0.5), stream=stream
        )
    assert isinstance(reply, ChatReply), reply
    sent = [{name: each.get(name) for name in SETTINGS} for each in server.requests]
    assert sent == [
        {"max_tokens": 9, "max_completion_tokens": None, "temperature": 0.5},
        {"max_tokens": None, "max_completion_tokens": 9, "temperature": 0.5},
        *[{"max_tokens": None, "max_completion_tokens": 9, "temperature": None}] * 2,
    ]
    assert [record.message.partition("takes no ")[2] for record in caplog.records] == [
        "temperature: it is left out, and the provider's own counts"
    ]


SETTINGS = ("max_tokens", "max_completion_tokens", "temperature")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "refusal",
    [
        "Unsupported parameter: 'top_p' is not supported with this model.",
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
    ],
)
def test_a_refused_top_p_is_left_out_and_the_temperature_stays(ask, protocol, caplog, refusal, stream):
    good = [protocol.chunk({"content": "Hi"}, "stop"), "[DONE]"] if stream else protocol.completion()
    sampling = Sampling(temperature=0.5, top_p=0.9)
    with caplog.at_level(logging.WARNING, "grpo_backends"):
        reply, server = ask(protocol.Refusal(400, refusal), good, times=2, sampling=sampling, stream=stream)
    assert isinstance(reply, ChatReply), reply
    sent = [(each.get("temperature"), each.get("top_p")) for each in server.requests]
    assert sent == [(0.5, 0.9), (0.5, None), (0.5, None)]
    assert [record.message.partition("takes no ")[2] for record in caplog.records] == [
        "top_p: it is left out, and the provider's own counts"
    ]


def test_a_refusal_of_something_else_is_not_tried_again(ask, protocol):
    problem, server = ask(protocol.Refusal(422, "tools[0] is wrong"))
    assert isinstance(problem, ProviderError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_an_error_holds_the_servers_status(ask, protocol, status):
    problem, _ = ask(protocol.Refusal(status, "no"))
    assert isinstance(problem, ProviderError)
    assert problem.status == status


def test_an_overflow_is_the_providers(ask, protocol):
    words = "This model's maximum context length is 8192 tokens."
    problem, _ = ask(protocol.Refusal(400, words))
    assert isinstance(problem, ProviderError)
    assert isinstance(problem, ContextOverflowError)


# The backend ``openai`` has an HTTP client of its own.


async def test_an_error_in_an_answer_of_status_200_is_told(chat_server):
    async def go() -> None:
        async with chat_server({"error": {"message": "the model is asleep"}}) as server:
            backend = OpenAIChatBackend(ModelSpec("m"), base_url=server.base_url)
            await backend.start()
            try:
                await backend.chat(ASK, Sampling())
            finally:
                await backend.close()

    with pytest.raises(ProviderError, match="the model is asleep"):
        await go()


@asynccontextmanager
async def listening(answer: Any):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def heads_of(base_url: str, status: str = "200 OK") -> Any:
    """What a server hears of one call to ``base_url``, and what comes of it."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        body = json.dumps({"choices": [{"message": {"content": "Hi"}}]}).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async def go() -> Any:
        async with listening(answer) as port:
            backend = OpenAIChatBackend(
                ModelSpec("m"), base_url=base_url.format(port=port), retries=0, timeout=5.0
            )
            await backend.start()
            try:
                return (await backend.chat(ASK, Sampling())).message["content"]
            except ProviderError as problem:
                return problem
            finally:
                await backend.close()

    return heads, await go()


async def test_a_query_of_the_base_url_goes_along():
    heads, said = await heads_of("http://127.0.0.1:{port}/v1/?api-version=7&x=a%20b")
    assert heads[0].startswith("POST /v1/chat/completions?api-version=7&x=a%20b HTTP/1.1")
    assert said == "Hi"


async def test_a_query_is_not_in_what_is_told_of_a_failure():
    _, problem = await heads_of("http://127.0.0.1:{port}/v1?key=secret", "404 Not Found")
    assert "secret" not in str(problem)
    assert problem.status == 404
