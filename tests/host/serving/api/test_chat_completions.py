"""The server as OpenAI's own client and LangChain's see it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import openai
import pytest
from tests.host.serving.openai_client import client_of

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.backend import Backend, Capability, ChatReply, ModelSpec
from grpo_sdk.errors import ContextOverflowError, ProviderError
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def answer(messages, tools):
    """Says what it was told to by the last message, so that a test can see what reached it."""
    said = messages[-1]["content"]
    if said == "instructions?":
        return next((m["content"] for m in messages if m["role"] == "system"), "none")
    if said == "weather?" and tools:
        return assistant("", [tool_call("weather", '{"town": "Bonn"}', "call_1")])
    if messages[-1]["role"] == "tool":
        return f"It is {said}."
    return f"You said: {said}"


class EchoBackend(ScriptedBackend):
    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model, script=answer)


class TooLongError(ProviderError, ContextOverflowError):
    """As the built-in backends say it."""


class MoodyBackend(Backend):
    """Crashes or hangs when it is told to."""

    capabilities = frozenset({Capability.CHAT})
    started = 0

    async def start(self):
        type(self).started += 1

    async def chat(self, messages, sampling, tools=()):
        said = messages[-1]["content"]
        if said == "crash":
            raise RuntimeError("segmentation fault")
        if said == "hang":
            await asyncio.sleep(3600)
        if said.startswith("refuse"):
            raise ProviderError(f"http://10.0.0.7/v1: {said}: secret body", status=int(said.split()[1]))
        if said == "overflow":
            raise TooLongError("http://10.0.0.7/v1: secret body", status=400)
        if said == "long":
            await asyncio.sleep(2.5)
        return ChatReply(assistant(said))


class LateBackend(EchoBackend):
    """Cannot be started at first, as where its model is still being downloaded."""

    failures = 1
    started = 0

    async def start(self):
        type(self).started += 1
        if type(self).started <= self.failures:
            raise RuntimeError("no /srv/models/secret yet")
        await super().start()


class Backends:
    @hookimpl
    def grpo_backends(self):
        return {"echo": EchoBackend, "moody": MoodyBackend, "late": LateBackend}


@pytest.fixture
def serve(tmp_path):
    """``async with serve("echo") as client``: an agent on a backend, and OpenAI's client of its server."""

    @asynccontextmanager
    async def start(backend="echo", *, turn_seconds=0.3, **options):
        path = tmp_path / "agent.yaml"
        path.write_text(
            "name: desk\nmodel: {name: tiny}\n"
            f"backend: {backend}\nagent: {{system_prompt: Be kind., limits: {{turn_seconds: {turn_seconds}}}}}\n"
            f"environment: support_desk\nrewards: [length]\noutput: {tmp_path / 'runs'}\n"
        )
        registry = load_plugins()
        registry.register(Backends(), "test-backends")
        loaded = load_config(path)
        app = create_app(
            ServerSettings.of(loaded, state=tmp_path / "state", **options), registry, loaded=loaded
        )
        async with client_of(app) as client:
            yield client

    return start


async def run(scenario):
    return await scenario


def ask(client, text, **options):
    options.setdefault("model", "desk")
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **options)


async def test_an_answer_has_text_reason_and_usage(serve):
    async def scenario():
        async with serve() as client:
            return await ask(client, "hello there")

    completion = await run(scenario())
    assert completion.choices[0].message.content == "You said: hello there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "desk"
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_the_agents_name_brings_its_instructions_and_the_models_does_not(serve):
    async def scenario():
        async with serve() as client:
            return (
                (await ask(client, "instructions?")).choices[0].message.content,
                (await ask(client, "instructions?", model="tiny")).choices[0].message.content,
            )

    assert await run(scenario()) == ("Be kind.", "none")


async def test_a_callers_system_message_comes_after_the_agents_instructions(serve):
    async def scenario():
        async with serve() as client:
            messages = [
                {"role": "developer", "content": "Speak French."},
                {"role": "user", "content": [{"type": "text", "text": "instructions?"}]},
            ]
            completion = await client.chat.completions.create(model="desk", messages=messages)
            return completion.choices[0].message.content

    assert await run(scenario()) == "Be kind.\nSpeak French."


async def test_a_stream_says_the_same_in_pieces(serve):
    async def scenario():
        async with serve() as client:
            stream = await ask(client, "one two three", stream=True, stream_options={"include_usage": True})
            return [chunk async for chunk in stream]

    chunks = await run(scenario())
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in deltas).strip() == "You said: one two three"
    assert len([text for text in deltas if text]) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_before_a_stop_text(serve, stream):
    async def scenario():
        async with serve() as client:
            got = await ask(client, "alpha beta gamma", stop=["a bet", "gamma"], stream=stream)
            if not stream:
                return got.choices[0].message.content
            return "".join([chunk.choices[0].delta.content or "" async for chunk in got])

    assert await run(scenario()) == "You said: alph"


async def test_several_answers_are_given_at_once(serve):
    async def scenario():
        async with serve() as client:
            return await ask(client, "hi", n=3)

    assert [choice.index for choice in (await run(scenario())).choices] == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_by_the_model_and_run_by_the_caller(serve, stream):
    async def scenario():
        async with serve() as client:
            got = await ask(client, "weather?", tools=[WEATHER], stream=stream)
            if stream:
                chunks = [chunk async for chunk in got]
                call = next(c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls)
                reason = chunks[-1].choices[0].finish_reason
            else:
                call, reason = got.choices[0].message.tool_calls[0], got.choices[0].finish_reason
            assert reason == "tool_calls"
            assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "Bonn"})
            messages = [
                {"role": "user", "content": "weather?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": call.id,
                            "type": "function",
                            "function": {"name": "weather", "arguments": "{}"},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
            ]
            last = await client.chat.completions.create(model="desk", messages=messages, tools=[WEATHER])
            return last.choices[0].message.content

    assert await run(scenario()) == "It is sunny."


async def test_langchains_chat_model_works_unchanged(serve):
    from langchain_openai import ChatOpenAI

    async def scenario():
        async with serve() as client:
            model = ChatOpenAI(
                model="desk", base_url="http://127.0.0.1/v1", api_key="none", http_async_client=client.http
            )
            answer = await model.ainvoke("good morning")
            pieces = [chunk.text async for chunk in model.astream("good morning")]
            called = await model.bind_tools([WEATHER]).ainvoke("weather?")
            return answer.text, "".join(pieces).strip(), called.tool_calls[0]["args"]

    assert await run(scenario()) == ("You said: good morning", "You said: good morning", {"town": "Bonn"})


async def test_the_models_are_the_agent_and_its_model(serve):
    async def scenario():
        async with serve() as client:
            return [model.id async for model in client.models.list()]

    assert await run(scenario()) == ["desk", "tiny"]


async def test_an_unknown_model_is_not_found_and_the_nearest_is_named(serve):
    async def scenario():
        async with serve() as client:
            await ask(client, "hi", model="desc")

    with pytest.raises(openai.NotFoundError, match=r"no model .*desc.*Did you mean .*desk"):
        await run(scenario())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"chat_template": "{{ x }}"}}, "chat_template"),
        ({"tool_choice": "required", "tools": [WEATHER]}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 100}, "n"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_its_name(serve, options, field):
    async def scenario():
        async with serve() as client:
            await ask(client, "hi", **options)

    with pytest.raises(openai.BadRequestError) as caught:
        await run(scenario())
    assert field in caught.value.body["param"]
    assert caught.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mood", ["crash", "hang"])
async def test_a_model_that_crashes_or_hangs_is_a_503_and_started_anew(serve, mood, stream):
    async def scenario():
        before = MoodyBackend.started
        async with serve("moody") as client:
            await ask(client, "fine")
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(client, mood, stream=stream)
            assert caught.value.status_code == 503
            assert int(caught.value.response.headers["retry-after"]) > 0
            assert "segmentation" not in str(caught.value)
            assert (await ask(client, "again")).choices[0].message.content == "again"
            return MoodyBackend.started - before

    assert await run(scenario()) == 2


async def test_readiness_waits_for_the_model(serve):
    async def scenario():
        async with serve("moody") as client:
            await ask(client, "fine")
            return (await client.http.get("/health/ready")).status_code

    assert await run(scenario()) == 200


async def test_loading_one_more_than_allowed_ends_an_idle_model(serve):
    async def scenario():
        before = MoodyBackend.started
        async with serve("moody", max_models=1) as client:
            for model in ("desk", "tiny", "desk"):
                await ask(client, "hi", model=model)
        return MoodyBackend.started - before

    assert await run(scenario()) == 3


async def test_a_model_that_cannot_be_loaded_at_first_is_tried_again_unasked(serve, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.models.pool.RETRY_SECONDS", 0.3)

    async def scenario():
        async with serve("late") as client:
            seen = []
            while not seen or seen[-1].status_code != 200:
                seen.append(await client.http.get("/health/ready"))
                await asyncio.sleep(0.02)
            return [answer.json()["status"] for answer in seen]

    said = await run(asyncio.wait_for(scenario(), 10))
    assert "the model cannot be loaded now" in said
    assert "secret" not in str(said)
    assert said[-1] == "ready"


async def test_more_characters_than_any_context_holds_are_refused_at_once(serve):
    async def scenario():
        async with serve() as client:
            await ask(client, "a" * 900_000)

    with pytest.raises(openai.BadRequestError) as caught:
        await run(scenario())
    assert caught.value.body["code"] == "context_length_exceeded"


async def test_a_long_answer_is_waited_for_as_long_as_the_model_speaks_to_others(serve):
    async def scenario():
        before = MoodyBackend.started
        async with serve("moody", turn_seconds=1.0) as client:
            long = asyncio.create_task(ask(client, "long"))
            while not long.done():
                await ask(client, "fine")
                await asyncio.sleep(0.05)
            return (await long).choices[0].message.content, MoodyBackend.started - before

    assert await run(scenario()) == ("long", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("refuse 401", 502, "refused_upstream"),
        ("refuse 404", 502, "refused_upstream"),
        ("refuse 422", 400, "refused_upstream"),
        ("refuse 429", 503, "unavailable"),
        ("refuse 500", 503, "unavailable"),
        ("overflow", 400, "context_length_exceeded"),
    ],
)
async def test_what_a_server_behind_refuses_for_good_is_no_503(serve, caplog, said, status, code, stream):
    async def scenario():
        async with serve("moody") as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await ask(client, said, stream=stream)
            return caught.value.response

    response = await run(scenario())
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert not {"10.0.0.7", "secret"} & set(response.text.replace(":", " ").replace("/", " ").split())
    assert "secret body" in caplog.text  # for whoever runs the server
