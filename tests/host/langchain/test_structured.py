from __future__ import annotations

import json

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel
from typing_extensions import TypedDict

from grpo_host.langchain import ChatGrpo
from grpo_sdk import Capability, ConfigError, assistant, tool_call
from grpo_sdk.backend import ChatReply, FinishReason
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import ScriptedBackend


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class PersonDict(TypedDict):
    """Somebody."""

    name: str
    age: int


METHODS = ["json_schema", "function_calling", "json_mode"]


class Constrained(ScriptedBackend):
    """Answers with the fields of a person, in the way that is asked for, and keeps what was asked for."""

    capabilities = ScriptedBackend.capabilities | {Capability.STRUCTURED}

    def __init__(self, arguments='{"name": "Ann", "age": 9}', finish=None):
        super().__init__()
        self.arguments, self.finish = arguments, finish
        self.asked = []

    async def chat(self, messages, sampling, tools=()):
        self.asked.append(sampling)
        if sampling.tool_choice not in ("auto", "none"):
            (tool,) = tools
            calls = [tool_call(tool["function"]["name"], self.arguments, "a1")]
            return ChatReply(assistant("", calls), FinishReason.TOOL_CALLS)
        return ChatReply(assistant(self.arguments), self.finish or FinishReason.STOP)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (Person, Person(name="Ann", age=9)),
        (PersonDict, {"name": "Ann", "age": 9}),
        (
            {"title": "person", "type": "object", "properties": {"name": {"type": "string"}}},
            {"name": "Ann", "age": 9},
        ),
    ],
    ids=["pydantic", "typed dict", "JSON schema"],
)
async def test_an_answer_has_the_form_that_was_asked_for(method, schema, expected):
    model = ChatGrpo(backend=Constrained()).with_structured_output(schema, method=method)

    assert model.invoke("Who?") == expected
    assert await model.ainvoke("Who?") == expected
    assert list(model.stream("Who?"))[-1] == expected


def test_each_method_asks_the_backend_for_its_own_constraint():
    backend = Constrained()
    for method in METHODS:
        ChatGrpo(backend=backend).with_structured_output(Person, method=method).invoke("Who?")

    schema, function, mode = backend.asked
    assert schema.json_schema["required"] == ["name", "age"]
    assert function.tool_choice == "Person"
    assert not function.parallel_tool_calls
    assert mode.json_schema == {}


def test_the_raw_message_comes_beside_what_was_read_in_it():
    model = ChatGrpo(backend=Constrained()).with_structured_output(Person, include_raw=True)

    found = model.invoke("Who?")

    assert found["raw"].text == '{"name": "Ann", "age": 9}'
    assert found["parsed"] == Person(name="Ann", age=9)
    assert found["parsing_error"] is None


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_an_answer_that_was_cut_is_an_error_instead_of_half_a_result(method):
    backend = Constrained('{"name": "Ann", "ag', FinishReason.LENGTH)
    cut = ChatGrpo(backend=backend)

    with pytest.raises(OutputParserException, match="the answer was cut before its end"):
        cut.with_structured_output(PersonDict, method=method).invoke("Who?")
    found = cut.with_structured_output(PersonDict, method=method, include_raw=True).invoke("Who?")
    assert found["parsed"] is None
    assert "the answer was cut" in str(found["parsing_error"])


@pytest.mark.parametrize("method", METHODS)
def test_a_backend_that_cannot_be_constrained_refuses(method):
    with pytest.raises(CapabilityError, match="needs a backend with the capability structured"):
        ChatGrpo(backend=ScriptedBackend()).with_structured_output(Person, method=method).invoke("Who?")


@pytest.mark.parametrize(
    ("schema", "method", "message"),
    [(None, "json_schema", 'by "json_schema" needs a schema'), (Person, "guess", 'not "guess"')],
)
def test_a_method_that_is_unknown_or_lacks_its_schema_is_refused(schema, method, message):
    with pytest.raises(ConfigError, match=message):
        ChatGrpo(backend=Constrained()).with_structured_output(schema, method=method)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ("look", "look"),
        ({"type": "function", "function": {"name": "look"}}, "look"),
        ({"type": "any"}, "required"),
    ],
)
def test_a_forced_call_is_asked_of_the_backend_however_it_is_said(said, asked):
    def look() -> str:
        """Look."""

    backend = Constrained("{}")

    answer = ChatGrpo(backend=backend).bind_tools([look], tool_choice=said).invoke("Look!")

    assert backend.asked[0].tool_choice == asked
    assert json.loads(json.dumps(answer.tool_calls[0]["args"])) == {}
