from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import ConfigurableField

from grpo_host.langchain import ChatGrpo
from grpo_sdk import Capability, ConfigError, ModelSpec, assistant, tool_call
from grpo_sdk.errors import CapabilityError, RunError
from grpo_sdk.testing import ScriptedBackend

WEATHER = {
    "title": "weather",
    "description": "Tell it.",
    "type": "object",
    "properties": {"city": {"type": "string"}},
}


def weather_call(arguments='{"city":"Rome"}'):
    return assistant("I look.", [tool_call("weather", arguments, "a1")])


def chat(*replies, **parameters):
    return ChatGrpo(backend=ScriptedBackend(ModelSpec("script", context=500), replies=replies), **parameters)


async def gathered(stream):
    return [chunk async for chunk in stream]


async def each_way(model, heard):
    """What ``model`` answers to ``heard``, asked in all four ways, as whole messages."""
    chunks = await gathered(model.astream(heard))
    streamed = await asyncio.to_thread(lambda: list(model.stream(heard)))
    return [
        await asyncio.to_thread(model.invoke, heard),
        await model.ainvoke(heard),
        sum(chunks[1:], chunks[0]),
        sum(streamed[1:], streamed[0]),
    ]


async def test_a_text_is_answered_in_each_of_the_four_ways():
    model = chat("Hello, dear friend!")

    answers = await each_way(model, "Hi")

    assert [answer.text for answer in answers] == ["Hello, dear friend!"] * 4
    assert {answer.response_metadata["finish_reason"] for answer in answers} == {"stop"}
    assert {answer.response_metadata["model_name"] for answer in answers} == {"script"}


async def test_tools_are_called_in_each_of_the_four_ways():
    model = chat(weather_call()).bind_tools([WEATHER])

    answers = await each_way(model, "Weather in Rome?")

    for answer in answers:
        assert answer.text == "I look."
        (call,) = answer.tool_calls
        assert (call["name"], call["args"], call["id"]) == ("weather", {"city": "Rome"}, "a1")
        assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_a_stream_gives_the_text_in_pieces_and_ends_with_the_last_chunk():
    chunks = list(chat("one two three").stream("Count"))

    assert [chunk.content for chunk in chunks] == ["one", " two", " three", ""]
    assert [chunk.chunk_position for chunk in chunks] == [None, None, None, "last"]
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)


async def test_tokens_are_counted_by_a_backend_that_samples_them(tokens):
    backend = tokens(lambda heard: "Hi")

    answers = await each_way(ChatGrpo(backend=backend), "Hello")

    for answer in answers:
        assert answer.usage_metadata["output_tokens"] == 3
        assert answer.usage_metadata["total_tokens"] == 3 + answer.usage_metadata["input_tokens"]


def test_a_backend_that_counts_no_tokens_reports_none():
    assert (
        ChatGrpo(backend=ScriptedBackend(replies=[weather_call() | {"content": ""}]))
        .invoke("x")
        .usage_metadata
        is None
    )


async def test_an_answer_ends_before_a_stop_text_in_each_of_the_four_ways(tokens):
    model = ChatGrpo(backend=tokens(lambda heard: "one two three"), stop=[" two"])

    answers = await each_way(model, "Count")

    assert [answer.text for answer in answers] == ["one"] * 4


def test_parameters_of_a_call_come_before_those_of_the_model(tokens):
    backend = tokens(lambda heard: "Hi")
    model = ChatGrpo(backend=backend, temperature=0.5, max_tokens=7, top_p=0.9, top_k=5, seed=3, stop=["x"])

    model.invoke("Hello", stop=["y"], temperature=0.0, max_completion_tokens=2)

    (used,) = backend.sampling
    assert (used.temperature, used.max_tokens, used.top_p, used.top_k, used.seed) == (0.0, 2, 0.9, 5, 3)
    assert used.stop == ("y",)


@pytest.mark.parametrize("choice", ["none", False])
def test_a_model_that_may_call_no_tool_calls_none(tokens, choice):
    written = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    model = ChatGrpo(backend=tokens(lambda heard: written)).bind_tools([WEATHER], tool_choice=choice)

    answer = model.invoke("Hello")

    assert (answer.text, answer.tool_calls) == (written, [])


def test_a_backend_that_cannot_forbid_calls_is_shown_no_tools_where_it_may_call_none():
    backend = ScriptedBackend(script=lambda messages, tools: f"{len(tools)} tools")

    assert (
        ChatGrpo(backend=backend).bind_tools([WEATHER], tool_choice="none").invoke("Hello").text == "0 tools"
    )


def test_of_parallel_calls_only_the_first_is_made_where_they_are_not_wanted():
    both = assistant("", [tool_call("weather", "{}", "a1"), tool_call("weather", "{}", "a2")])

    answer = chat(both).bind_tools([WEATHER], parallel_tool_calls=False).invoke("x")

    assert [call["id"] for call in answer.tool_calls] == ["a1"]


def test_a_tool_that_is_not_offered_cannot_be_chosen():
    with pytest.raises(ConfigError, match='tool_choice "forecast" is none of the tools: weather'):
        chat("x").bind_tools([WEATHER], tool_choice="forecast")


def test_a_tool_that_runs_at_a_provider_is_refused():
    with pytest.raises(ConfigError, match='a tool of the type "web_search" runs at a provider'):
        chat("x").bind_tools([{"type": "web_search"}])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": 1}, "the backend repeats no samples"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "the backend takes no tools"),
        (
            {"response_format": {"type": "json_object"}},
            "a schema of the answer needs a backend with the capability structured",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "any"},
            'tool_choice "required" needs a',
        ),
    ],
)
def test_what_the_backend_cannot_do_is_refused_by_name(asked, message):
    class Plain(ScriptedBackend):
        capabilities = frozenset({Capability.CHAT})

    with pytest.raises(CapabilityError, match=message):
        ChatGrpo(backend=Plain()).invoke("x", **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temprature": 1}, 'ChatGrpo knows no "temprature". Did you mean "temperature"'),
        ({"model": "gpt-5"}, 'scripted answers here, not "gpt-5"'),
        ({"response_format": {"type": "yaml"}}, "response_format is text, json_object or json_schema"),
    ],
)
def test_a_call_that_asks_for_what_is_unknown_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        ChatGrpo(backend=ScriptedBackend()).invoke("x", **asked)


async def test_a_prompt_that_is_too_long_is_the_error_that_langchains_middleware_catches(fakes):
    model = ChatGrpo(backend=fakes.TokenBackend(fakes.PieceTokenizer(), "Hi", context=20))

    with pytest.raises(ContextOverflowError, match="the context has 20"):
        await model.ainvoke("x" * 100)


class Slow(ScriptedBackend):
    """Answers when it is let, and tells when it is given up."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()
        self.given_up = threading.Event()

    async def stream(self, messages, sampling, tools=()):
        yield "Well"
        yield await self.chat(messages, sampling, tools)

    async def chat(self, messages, sampling, tools=()):
        self.begun.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return await super().chat(messages, sampling, tools)


async def test_cancelling_a_call_ends_the_generation():
    backend = Slow()
    call = asyncio.ensure_future(ChatGrpo(backend=backend).ainvoke("Hi"))
    assert await asyncio.to_thread(backend.begun.wait, 60)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(backend.given_up.wait, 60)


async def test_a_stream_that_is_left_half_way_ends_the_generation():
    backend = Slow()
    stream = ChatGrpo(backend=backend).astream("Hi")
    assert (await anext(stream)).content == "Well"

    await stream.aclose()

    assert await asyncio.to_thread(backend.given_up.wait, 60)


def test_a_synchronous_stream_that_is_left_half_way_ends_the_generation():
    backend = Slow()
    stream = ChatGrpo(backend=backend).stream("Hi")
    assert next(stream).content == "Well"

    stream.close()

    assert backend.given_up.wait(60)


def test_a_call_that_takes_longer_than_it_may_is_a_timeout():
    with pytest.raises(TimeoutError):
        ChatGrpo(backend=Slow(), timeout=0.01).invoke("Hi")


def test_an_error_of_the_backend_reaches_the_caller(fakes):
    backend = fakes.TokenBackend(fakes.PieceTokenizer(), RuntimeError("the engine broke"))

    with pytest.raises(RuntimeError, match="the engine broke"):
        ChatGrpo(backend=backend).invoke("Hi")
    with pytest.raises(RuntimeError, match="the engine broke"):
        list(ChatGrpo(backend=backend).stream("Hi"))


class OneLoop:
    """A source that answers in the loop in which it was made."""

    name, context, capabilities = "mine", 100, frozenset({Capability.CHAT})

    def __init__(self):
        self.loop = asyncio.get_running_loop()

    async def respond(self, messages, tools, overrides, on_text=None):
        raise AssertionError("it must not come to that")


async def test_a_synchronous_call_in_the_loop_that_would_answer_it_is_an_error_instead_of_a_standstill():
    model = ChatGrpo(source=OneLoop())

    with pytest.raises(RuntimeError, match="would wait forever; await ainvoke"):
        model.invoke("Hi")
    with pytest.raises(RuntimeError, match="would wait forever; await ainvoke"):
        list(model.stream("Hi"))


async def test_a_synchronous_call_inside_of_another_loop_is_answered():
    assert chat("Hello").invoke("Hi").text == "Hello"


def test_who_speaks_is_written_before_what_they_say_where_templates_show_no_names(tokens):
    backend = tokens(lambda heard: "Hi")

    ChatGrpo(backend=backend).invoke([HumanMessage("Hello", name="Ann")])

    assert "Ann: Hello" in backend.sampled[0][0]


def test_a_models_profile_says_what_it_can(tokens):
    profile = ChatGrpo(backend=tokens(lambda heard: "Hi")).profile

    assert profile["max_input_tokens"] == 20_000
    assert profile["tool_calling"]
    assert not profile["structured_output"]
    assert not profile["image_inputs"]


@pytest.mark.parametrize(
    "given",
    [{}, {"agent_yaml": "agent.yaml", "run": "runs/x"}, {"model": "m", "backend": ScriptedBackend()}],
    ids=lambda given: " and ".join(given) or "nothing",
)
def test_a_model_is_made_from_exactly_one_thing(given):
    with pytest.raises(ConfigError, match="a chat model is made from one of agent_yaml, run, model"):
        ChatGrpo(**given)


def agent_yaml(directory, **model):
    lines = "".join(f"\n  {key}: {value}" for key, value in {"name": "any", "context": 300, **model}.items())
    path = directory / "agent.yaml"
    path.write_text(
        f"name: greeter\nmodel:{lines}\n"
        "backend: {name: scripted, options: {replies: [Good day.]}}\n"
        "environment: order_desk\nrewards: [task_success]\n"
        "sampling: {max_tokens: 33}\nevaluation: {temperature: 0.25}\n"
    )
    return path


def test_the_model_of_an_agent_yaml_is_sampled_as_it_is_served(tmp_path):
    model = ChatGrpo.from_yaml(agent_yaml(tmp_path))

    assert model.invoke("Hi").text == "Good day."
    assert model.profile["max_input_tokens"] == 300
    assert (model._source._sampling.max_tokens, model._source._sampling.temperature) == (33, 0.25)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no directory of a run"):
        ChatGrpo.from_run(tmp_path)


def test_a_run_that_has_trained_nothing_yet_is_refused(tmp_path):
    agent_yaml(tmp_path)

    with pytest.raises(RunError, match="has no adapter yet"):
        ChatGrpo.from_run(tmp_path)


@pytest.mark.filterwarnings("ignore:The function .load. is in beta")
def test_a_model_is_written_down_and_loaded_again():
    model = ChatGrpo(model="any", backend="scripted", temperature=0.5)

    again = load(dumpd(model), allowed_objects=[ChatGrpo], valid_namespaces=["grpo_host"])

    assert isinstance(again, ChatGrpo)
    assert again.asdict() == model.asdict()
    assert again.invoke("Hi").text == model.invoke("Hi").text


def test_a_backend_made_in_python_stays_behind_where_a_model_is_written_down():
    assert dumpd(chat("x"))["kwargs"]["backend"]["type"] == "not_implemented"


def test_copies_of_a_model_share_its_backend():
    class Counted(ScriptedBackend):
        starts = 0

        async def start(self):
            self.starts += 1

    backend = Counted()
    model = ChatGrpo(backend=backend)
    warmer = model.configurable_fields(temperature=ConfigurableField(id="warmth"))

    model.invoke("Hi")
    warmer.with_config(configurable={"warmth": 0.9}).invoke("Hi")

    assert (backend.starts, backend.calls) == (1, 2)


def test_a_model_that_was_closed_is_loaded_again():
    model = chat("Hello")
    model.invoke("Hi")

    model.close()

    assert model.invoke("Hi").text == "Hello"
