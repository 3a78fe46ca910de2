"""The served agent is the trained one: its sampling, its tools, and what it tells of them."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import asynccontextmanager

import openai
import pytest
from tests.host.one_turn import OneTurn
from tests.host.serving.openai_client import client_of

from grpo_host.config.load import load_config
from grpo_host.openai_protocol.tool_runs import MOST_CHARACTERS
from grpo_host.plugins import load_plugins
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.backend import Capability
from grpo_sdk.environment import Environment
from grpo_sdk.errors import ConfigError
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.strategy import Strategy
from grpo_sdk.testing import ScriptedBackend

pytestmark = pytest.mark.slow

RUN = "20260101-000000-abcd"


class Shop(OneTurn):
    closed = 0

    def tools(self):
        return (self.lookup_order,)

    def serving_tools(self):
        return (self.lookup_order,)

    async def lookup_order(self, order_id: str) -> str:
        """Look up an order."""
        if order_id == "K000":
            raise LookupError("the shop has burnt down")
        return "Monday" if order_id == "K482" else "x" * 3000

    async def close(self):
        type(self).closed += 1


class EpisodesOnly(Shop):
    serving_tools = Environment.serving_tools


def answer(messages, tools):
    """Looks up the order that is asked for; says which tools and which results it sees."""
    said = messages[-1]
    offered = [tool["function"]["name"] for tool in tools]
    if any(message["content"] == "loop" for message in messages):
        return assistant("", [tool_call("lookup_order", '{"order_id": "K482"}', "call_0")])
    if said["role"] == "tool":
        return f"It arrives on {said['content'][:40]}."
    if said["content"] == "tools?":
        return ", ".join(offered) or "none"
    words = said["content"].split()
    if words[0] == "look" and "lookup_order" in offered:
        calls = [
            tool_call("lookup_order", json.dumps({"order_id": order}), f"call_{order}") for order in words[1:]
        ]
        return assistant("Let me see." if len(calls) > 1 else "", calls)
    return "I do not know."


class ShopBackend(ScriptedBackend):
    samplings: list = []  # noqa: RUF012

    def __init__(self, model):
        super().__init__(model, script=answer)

    async def chat(self, messages, sampling, tools=()):
        self.samplings.append(sampling)
        return await super().chat(messages, sampling, tools)


class LocalBackend(ShopBackend):
    """As if it had loaded the model and adapters of runs itself."""

    capabilities = ShopBackend.capabilities | {Capability.LOCAL_WEIGHTS}


class Parts:
    backends = {"shop": ShopBackend, "local": LocalBackend}  # noqa: RUF012

    @hookimpl
    def grpo_backends(self):
        return self.backends

    @hookimpl
    def grpo_environments(self):
        return {"shop": Shop, "episodes_only": EpisodesOnly}

    @hookimpl
    def grpo_strategies(self):
        return {"listener": lambda: Strategy("listener", tools=())}


@pytest.fixture
def speak(fakes, monkeypatch):
    """Let the backend ``tokens`` sample these replies, token by token."""

    def speak(*replies):
        class Tokens(fakes.TokenBackend):
            capabilities = fakes.TokenBackend.capabilities | {Capability.LOCAL_WEIGHTS}

            def __init__(self, model):
                super().__init__(fakes.PieceTokenizer(), *replies)

        monkeypatch.setattr(Parts, "backends", {**Parts.backends, "tokens": Tokens})

    return speak


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An app on agent.yaml with these lines more."""
    monkeypatch.setattr(ShopBackend, "samplings", [])

    def make(*lines, backend="shop", environment="shop", run=None):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / "config.json").write_text("{}")
        (tmp_path / "tiny" / "model.safetensors").touch()
        path = tmp_path / "agent.yaml"
        path.write_text(
            "\n".join(
                [
                    f"name: desk\nmodel: {{name: {tmp_path / 'tiny' if backend != 'shop' else 'tiny'}}}",
                    f"backend: {backend}\nenvironment: {environment}\nrewards: [length]",
                    f"output: {tmp_path / 'runs'}\nsampling: {{max_tokens: 40}}",
                    *lines,
                ]
            )
        )
        registry = load_plugins()
        registry.register(Parts(), "test-parts")
        loaded = load_config(path)
        settings = ServerSettings.of(loaded, state=tmp_path / "state", run=run)
        return create_app(settings, registry, loaded=loaded)

    return make


@pytest.fixture
def serve(make):
    @asynccontextmanager
    async def start(*lines, **options):
        app = make(*lines, **options)
        async with client_of(app) as client:
            client.models_ = app.state.services.models
            yield client

    return start


def ask(client, text, **options):
    options.setdefault("model", "desk")
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **options)


async def chat(client, text, **fields):
    return await client.http.post("/api/chat", json={"message": text, **fields})


FOUND = {"name": "lookup_order", "arguments": '{"order_id": "K482"}', "result": "Monday", "ok": True}


def without_seconds(runs):
    assert all(run.pop("seconds") >= 0 for run in runs)
    return runs


async def test_openais_api_calls_the_agents_tools_and_tells_which(serve):
    async with serve() as client:
        completion = await ask(client, "look K482")
    message = completion.choices[0].message
    assert message.content == "It arrives on Monday."
    assert (message.tool_calls, completion.choices[0].finish_reason) == (None, "stop")
    assert without_seconds(message.tool_runs) == [FOUND]
    assert completion.usage.completion_tokens == 4


async def test_a_stream_of_openais_api_tells_the_tools_in_its_last_piece(serve):
    async def scenario():
        async with (
            serve() as client,
            client.chat.completions.stream(
                model="desk", messages=[{"role": "user", "content": "look K482 K483"}]
            ) as stream,
        ):
            async for _ in stream:
                pass
            return await stream.get_final_completion()

    message = (await scenario()).choices[0].message
    assert message.content == "Let me see.\n\nIt arrives on " + "x" * 40 + "."
    assert [(run["index"], run["arguments"]) for run in message.tool_runs] == [
        (0, '{"order_id": "K482"}'),
        (1, '{"order_id": "K483"}'),
    ]


async def test_a_long_result_is_cut_and_a_failure_is_told(serve):
    async with serve() as client:
        long, failed = (await ask(client, "look K483 K000")).choices[0].message.tool_runs
    assert long["result"] == "x" * MOST_CHARACTERS + f"\n[{3000 - MOST_CHARACTERS} characters left out]"
    assert (failed["ok"], failed["result"]) == (False, "Error: LookupError: the shop has burnt down")


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, "lookup_order"),
        ({"tool_choice": "none"}, "none"),
        ({"tools": []}, "none"),
        ({"model": "tiny"}, "none"),
        ({"tools": [{"type": "function", "function": {"name": "weather"}}]}, "weather"),
    ],
)
async def test_the_agents_tools_are_offered_where_the_caller_brings_none(serve, options, seen):
    async def scenario():
        async with serve() as client:
            return (await ask(client, "tools?", **options)).choices[0].message.content

    assert await scenario() == seen


CALL = '<tool_call>{"name": "lookup_order", "arguments": {"order_id": "K482"}}</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_samples_tokens_calls_the_tools_and_only_its_answers_logprobs_are_told(
    serve, speak, stream
):
    speak(CALL, "Monday")

    async def scenario():
        async with serve(backend="tokens") as client:
            got = await ask(client, "look K482", logprobs=True, stream=stream, max_tokens=200)
            if not stream:
                choice = got.choices[0]
                return choice.message.content, choice.message.tool_runs, choice.logprobs
            chunks = [chunk.choices[0] async for chunk in got]
            text = "".join(chunk.delta.content or "" for chunk in chunks)
            return text, chunks[-1].delta.tool_runs, chunks[-1].logprobs

    text, runs, logprobs = await scenario()
    assert text == "Monday"
    assert [(run["name"], run["arguments"], run["result"]) for run in runs] == [
        ("lookup_order", '{"order_id": "K482"}', "Monday")
    ]
    assert "".join(token.token for token in logprobs.content) == "Monday<|im_end|>"


async def test_what_cannot_be_read_as_a_call_is_told_without_an_internal_name(serve, speak):
    speak("<tool_call>oops</tool_call>", "Sorry")

    async with serve(backend="tokens") as client:
        (run,) = (await ask(client, "look K482")).choices[0].message.tool_runs
    assert (run["name"], run["arguments"], run["ok"]) == ("", "<tool_call>oops</tool_call>", False)
    assert "not valid JSON" in run["result"]


async def test_a_stop_text_ends_the_answer_behind_a_tool_call(serve):
    async def scenario():
        async with serve() as client:
            whole = await ask(client, "look K482 K482", stop=[" on"])
            stream = await ask(client, "look K482 K482", stop=[" on"], stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    assert await scenario() == ("It arrives", "Let me see.\n\nIt arrives")


async def test_an_agent_that_only_calls_tools_is_a_503_of_its_own(serve):
    async def scenario():
        async with serve("agent: {limits: {turns: 3}}") as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(client, "loop")
            return caught.value.body["code"], len(ShopBackend.samplings)

    # The fourth call of a tool is not asked for.
    assert await scenario() == ("turn_limit", 3)


async def test_the_chat_api_tells_the_tools_whole_and_streamed(serve):
    async with serve() as client:
        whole = (await chat(client, "look K482")).json()
        events = (await chat(client, "look K482", stream=True)).text.splitlines()
        last = json.loads([line for line in events if line.startswith("data: ")][-1][6:])
        none = (await chat(client, "hello")).json()
    assert whole["response"] == last["response"] == "It arrives on Monday."
    assert without_seconds(whole["tool_runs"]) == without_seconds(last["tool_runs"]) == [FOUND]
    assert none["tool_runs"] == []


async def test_a_strategy_with_tools_of_its_own_has_the_environments_too(serve):
    async def scenario():
        async with serve("agent: {tools: [calculator]}") as client:
            own = (await chat(client, "tools?")).json()["response"]
            return own, (await chat(client, "tools?", strategy="listener")).json()["response"]

    assert await scenario() == ("calculator, lookup_order", "lookup_order")


async def test_the_environment_behind_the_tools_is_closed_with_the_server(serve):
    async def scenario():
        before = Shop.closed
        async with serve():
            assert Shop.closed == before
        return Shop.closed - before

    assert await scenario() == 1


async def test_tools_that_only_episodes_have_are_missed_in_the_log(serve, caplog):
    async def scenario():
        async with serve(environment="episodes_only") as client:
            return (await ask(client, "tools?")).choices[0].message.content

    with caplog.at_level(logging.WARNING, "grpo_host.serving"):
        assert await scenario() == "none"
    assert 'the environment "episodes_only" has tools in its episodes and offers none' in caplog.text


async def all_ways(client, **said):
    """How the model was sampled when asked by OpenAI's API, the chat API and in a conversation."""
    ShopBackend.samplings.clear()
    await ask(client, "hello", **said)
    first = (await chat(client, "hello", **said)).json()
    await chat(client, "hello", conversation_id=first["conversation_id"], **said)
    return {(s.temperature, s.max_tokens, s.top_p) for s in ShopBackend.samplings}


async def test_the_agent_is_served_as_it_was_measured_until_a_request_says_otherwise(serve):
    async def scenario():
        async with serve() as client:
            return await all_ways(client), await all_ways(client, temperature=0.5, max_tokens=9, top_p=0.9)

    assert await scenario() == ({(0.0, 40, 1.0)}, {(0.5, 9, 0.9)})


async def test_agent_yaml_may_say_how_the_agent_is_served(serve):
    async def scenario():
        async with serve("serving: {sampling: {temperature: 0.4, max_tokens: 80}}") as client:
            return await all_ways(client)

    assert await scenario() == {(0.4, 80, 1.0)}


@pytest.fixture
def run(tmp_path):
    """A finished run whose agent.yaml is from before ``serving.sampling`` could be said."""
    path = tmp_path / "runs" / "desk" / RUN
    (path / "adapter").mkdir(parents=True)
    (path / "adapter" / "adapter_config.json").write_text("{}")
    (path / "agent.yaml").write_text(
        "model: tiny\nsampling: {max_tokens: 33}\nevaluation: {temperature: 0.2}\n"
    )
    return path


def test_a_run_is_served_as_it_was_measured_itself(make, run):
    models = make(backend="local", run="latest").state.services.models
    for name in (None, f"desk/{RUN}"):
        sampling = models.sampling(models.catalogue.find(name))
        assert (sampling.temperature, sampling.max_tokens) == (0.2, 33)
    models = make("serving: {sampling: {temperature: 0.9}}", backend="local").state.services.models
    sampling = models.sampling(models.catalogue.find(f"desk/{RUN}"))
    assert (sampling.temperature, sampling.max_tokens) == (0.9, 33)
    assert models.sampling(models.catalogue.find(None)).max_tokens == 40


def test_a_served_run_whose_agent_yaml_is_broken_is_refused_at_once(make, run):
    (run / "agent.yaml").write_text("model: tiny\nsampling: {max_tokens: none}\n")
    with pytest.raises(ConfigError, match=r"agent\.yaml: sampling\.max_tokens"):
        make(backend="local", run="latest")


APP = '''
from dataclasses import dataclass
from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

@dataclass
class Customer:
    orders: dict

@tool
def lookup_order(order_id: str, runtime: ToolRuntime[Customer]) -> str:
    """Look up an order."""
    return runtime.context.orders.get(order_id, "no day")

def build(model):
    return create_agent(model, [lookup_order], system_prompt="Help.", context_schema=Customer)

def fails(model):
    return RunnableLambda(lambda given: 1 / 0)

def remembers(model):
    return RunnableLambda(lambda given: " | ".join(f"{m.type} {m.text}" for m in given["messages"]))

@tool
def cancel(order_id: str) -> str:
    """Cancel an order."""
    said = [interrupt(f"Cancel {order_id}?"), interrupt("Really?")]
    return f"the user says {' and '.join(said)}"

saver = InMemorySaver()

def asks_first(model):
    return create_agent(model, [cancel], checkpointer=saver)

def asks_and_forgets(model):
    return create_agent(model, [cancel])

def with_desk_tools(model, tools):
    return create_agent(model, tools)

other = ChatOpenAI(model="gpt-5", api_key="none") | RunnableLambda(lambda message: message.text)
graph = create_agent(ChatOpenAI(model="gpt-5-mini", api_key="none"), [])
'''


@pytest.fixture
def app(tmp_path, monkeypatch):
    """What agent.yaml says of the app ``served_app:name``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "served_app.py").write_text(APP)
    yield lambda name, more="": f"agent: {{runnable: 'served_app:{name}', {more}}}"
    sys.modules.pop("served_app", None)


async def test_an_app_is_served_as_it_is_trained(serve, app):
    async with serve(app("build", "context: {orders: task.orders}")) as client:
        completion = await ask(client, "look K482")
        answered = await chat(client, "look K482", context={"orders": {"K482": "Friday"}})
        answered = answered.json()
    [choice] = completion.choices
    assert (choice.message.content, choice.finish_reason) == ("It arrives on no day.", "stop")
    assert completion.usage.completion_tokens == 5
    assert answered["response"] == "It arrives on Friday."


async def test_the_facts_of_a_conversation_are_the_apps_task_and_no_prompt(serve, app):
    async def scenario():
        async with serve(app("remembers")) as client:
            return (await chat(client, "One", context={"day": "Friday"})).json()["response"]

    assert await scenario() == "human One"


async def test_a_served_app_is_told_the_conversation_and_streams_its_answer_whole(serve, app):
    async def scenario():
        async with serve(app("remembers")) as client:
            first = (await chat(client, "One")).json()
            second = (await chat(client, "Two", conversation_id=first["conversation_id"])).json()
            stream = await ask(client, "Three", stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            return second["response"], "".join(pieces)

    assert await scenario() == ("human One | ai human One | human Two", "human Three")


async def pieces_of(client, messages, **options):
    stream = await client.chat.completions.create(model="desk", messages=messages, stream=True, **options)
    return [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]


async def test_a_served_app_streams_what_its_model_says_as_it_comes(serve, app):
    asked = [{"role": "user", "content": "look K482 K483"}]

    async with serve(app("build", "context: {orders: task.orders}")) as client:
        pieces = [piece for piece in await pieces_of(client, asked) if piece]
        events = (await chat(client, "look K482 K483", stream=True)).text.splitlines()
        told = [json.loads(line[6:]) for line in events if line.startswith("data: ")]
    assert len(pieces) > 4
    assert "".join(pieces) == "Let me see.\n\nIt arrives on no day."
    assert "".join(event.get("delta", "") for event in told) == "".join(pieces)
    assert told[-1]["response"] == "".join(pieces)


async def test_a_served_app_that_makes_its_answer_itself_tells_it_once(serve, app):
    async def scenario():
        async with serve(app("build", "context: {orders: task.orders}, output: messages.0.text")) as client:
            return "".join(await pieces_of(client, [{"role": "user", "content": "look K482 K483"}]))

    assert await scenario() == "look K482 K483"


def waits_for_yes(messages, tools):
    said = messages[-1]
    if said["role"] == "tool":
        return f"Done: {said['content']}."
    if "cancel" in [tool["function"]["name"] for tool in tools] and "K482" in said["content"]:
        return assistant("One moment.", [tool_call("cancel", '{"order_id": "K482"}', "call_0")])
    return f"{len(messages)} messages."


@pytest.fixture
def asking(monkeypatch):
    """The model calls a tool that asks the user before it does anything."""
    monkeypatch.setattr(sys.modules[__name__], "answer", waits_for_yes)


DONE = "Done: the user says yes and sure."


async def test_a_served_graph_that_waits_goes_on_with_what_is_said_next_in_its_conversation(
    serve, app, asking
):
    async def scenario():
        async with serve(app("asks_first")) as client:
            answers, id = [], None
            for said in ("Cancel K482", "yes", "sure", "Thanks"):
                answered = (await chat(client, said, conversation_id=id)).json()
                id = answered["conversation_id"]
                answers.append(answered["response"])
            return answers

    assert await scenario() == ["Cancel K482?", "Really?", DONE, "7 messages."]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_served_graph_that_waits_is_found_by_all_that_was_said(serve, app, asking, stream):
    async def scenario():
        async with serve(app("asks_first")) as client:
            talks = [[], []]
            for said in ("Cancel K482", "yes", "sure"):
                for messages in talks:  # two that look the same
                    messages.append({"role": "user", "content": said})
                    if stream:
                        text = "".join(await pieces_of(client, messages))
                    else:
                        got = await client.chat.completions.create(model="desk", messages=messages)
                        text = got.choices[0].message.content
                    messages.append({"role": "assistant", "content": text})
            return [[message["content"] for message in messages[1::2]] for messages in talks]

    first = "One moment.\n\nCancel K482?" if stream else "Cancel K482?"
    assert await scenario() == [[first, "Really?", DONE]] * 2


async def test_a_served_graph_without_a_checkpointer_begins_anew(serve, app, asking):
    async with serve(app("asks_and_forgets")) as client:
        first = (await chat(client, "Cancel K482")).json()
        question, next = (
            first["response"],
            (await chat(client, "ja", conversation_id=first["conversation_id"])).json(),
        )
    assert (question, next["response"]) == ("Cancel K482?", "3 messages.")


async def test_a_checkpointer_keeps_nothing_of_a_served_conversation_that_does_not_wait(serve, app, asking):
    async def scenario():
        async with serve(app("asks_first")) as client:
            kept, id = [], None
            for said in ("Cancel K482", "yes", "sure", "Thanks"):
                id = (await chat(client, said, conversation_id=id)).json()["conversation_id"]
                kept.append(len(sys.modules["served_app"].saver.storage))
            return kept

    assert await scenario() == [1, 1, 0, 0]


async def test_a_served_app_has_the_tools_that_it_asks_for(serve, app):
    async def scenario():
        async with serve(app("with_desk_tools")) as client:
            return (await ask(client, "look K482")).choices[0].message.content

    assert await scenario() == "It arrives on Monday."


async def test_the_models_of_a_served_app_are_redirected_until_the_server_ends(serve, app):
    from langchain_openai import ChatOpenAI

    before = ChatOpenAI._agenerate

    async def scenario():
        async with serve(app("graph", 'redirect: {"openai:gpt-5-mini": policy}')) as client:
            answer = (await ask(client, "Hello there")).choices[0].message.content
            assert ChatOpenAI._agenerate is not before
            return answer

    assert await scenario() == "I do not know."
    assert ChatOpenAI._agenerate is before


@pytest.mark.parametrize("name", ["fails", "other"])
async def test_an_app_that_fails_is_a_503_and_the_log_says_why(serve, app, caplog, name):
    async def scenario():
        async with serve(app(name, "input: messages")) as client:
            with pytest.raises(openai.APIStatusError) as error:
                await ask(client, "Hello")
            return error.value

    assert (await scenario()).status_code in (500, 503)
    said = {
        "fails": "the app failed: ZeroDivisionError: division by zero",
        "other": "the app called openai:gpt-5",
    }
    assert said[name] in caplog.text


async def test_a_served_app_takes_no_tools_of_the_caller(serve, app):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

    async with serve(app("remembers")) as client:
        with pytest.raises(openai.BadRequestError, match="takes no tools of the caller: f"):
            await ask(client, "Hello", tools=[tool])
