"""Forced tools and JSON answers on ``/v1``, in both of its protocols."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
TOOL = {"type": "function", **FUNCTION}
SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}


class Obedient(ScriptedBackend):
    """Does what it is asked to, and says how that was said."""

    seen: list = []  # noqa: RUF012 - of the last request

    def __init__(self, model):
        super().__init__(model, structured=True)

    async def chat(self, messages, sampling, tools=()):
        type(self).seen = [sampling.tool_choice, sampling.json_schema, sampling.parallel_tool_calls]
        call = tool_call("weather", '{"town": "Bonn"}', "")
        if sampling.tool_choice not in ("auto", "none"):
            self.script = lambda *_: assistant("", [call])
        elif sampling.json_schema is not None:
            self.script = lambda *_: '{"mood": "good"}'
        else:
            self.script = lambda *_: (
                assistant("", [call, call][: 1 + sampling.parallel_tool_calls]) if tools else "Hi"
            )
        return await super().chat(messages, sampling, tools)


@pytest.fixture
def ask(served):
    """``ask("chat", ...)``: an answer of one of the protocols, of a backend that constrains or of another."""

    def asked(protocol, *, backend=Obedient, **fields):
        async def scenario():
            agent = "name: desk\nmodel: {name: tiny}\nbackend: own\nenvironment: support_desk\nrewards: [length]\n"
            async with served(agent, own=backend) as http:
                client = openai.AsyncOpenAI(
                    base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0
                )
                if protocol == "responses":
                    return await client.responses.create(model="tiny", input="Hi", **fields)
                said = [{"role": "user", "content": "Hi"}]
                return await client.chat.completions.create(model="tiny", messages=said, **fields)

        return asyncio.run(scenario())

    return asked


@pytest.mark.parametrize(
    ("choice", "seen"),
    [("required", "required"), ({"type": "function", "function": {"name": "weather"}}, "weather")],
)
def test_a_tool_can_be_forced(ask, choice, seen):
    completion = ask("chat", tools=[CHAT_TOOL], tool_choice=choice)
    [call] = completion.choices[0].message.tool_calls
    assert (call.function.name, completion.choices[0].finish_reason) == ("weather", "tool_calls")
    assert Obedient.seen == [seen, None, True]


@pytest.mark.parametrize(
    ("choice", "seen"), [("required", "required"), ({"type": "function", "name": "weather"}, "weather")]
)
def test_a_tool_can_be_forced_on_responses_which_tell_it(ask, choice, seen):
    response = ask("responses", tools=[TOOL], tool_choice=choice)
    assert [item.type for item in response.output] == ["function_call"]
    assert Obedient.seen[0] == seen
    assert json.loads(response.model_dump_json())["tool_choice"] == choice


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "Mood", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "Any"}}, {}),
    ],
)
def test_an_answer_can_be_json_of_a_schema(ask, asked, seen):
    completion = ask("chat", response_format=asked)
    assert Obedient.seen[1] == seen
    assert completion.choices[0].message.content == ("Hi" if seen is None else '{"mood": "good"}')


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "name": "Mood", "schema": SCHEMA, "strict": True}, SCHEMA),
    ],
)
def test_an_answer_can_be_json_of_a_schema_on_responses_which_tell_it(ask, asked, seen):
    response = ask("responses", text={"format": asked})
    assert Obedient.seen[1] == seen
    assert json.loads(response.output_text) == {"mood": "good"}
    told = json.loads(response.model_dump_json(by_alias=True, exclude_none=True))["text"]["format"]
    assert told == asked


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_the_backend_is_told_that_calls_come_one_at_a_time(ask, protocol):
    answer = ask(protocol, tools=[CHAT_TOOL if protocol == "chat" else TOOL], parallel_tool_calls=False)
    assert Obedient.seen == ["auto", None, False]
    calls = answer.choices[0].message.tool_calls if protocol == "chat" else answer.output
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        (
            {"tools": [CHAT_TOOL], "tool_choice": "required"},
            "tool_choice",
            "this model cannot be made to call",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format", "cannot be held to JSON"),
    ],
)
def test_a_backend_that_cannot_is_refused_by_the_fields_name(ask, fields, param, said):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        ask("chat", backend=ScriptedBackend, **fields)
    assert caught.value.body["param"] == param


def test_a_backend_that_cannot_is_refused_on_responses_too(ask):
    with pytest.raises(openai.BadRequestError, match="cannot be held to JSON") as caught:
        ask("responses", backend=ScriptedBackend, text={"format": {"type": "json_object"}})
    assert caught.value.body["param"] == "text.format"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_choice": "required"}, "asks for a tool, and tools offers none"),
        (
            {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "wether"}}},
            'asks for the tool "wether", and tools offers weather',
        ),
    ],
)
def test_a_tool_that_is_not_offered_cannot_be_forced(ask, fields, said):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        ask("chat", **fields)
    assert caught.value.body["param"] == "tool_choice"
