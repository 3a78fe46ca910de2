from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from grpo_sdk import tool_call
from grpo_sdk.schemas import inlinable, object_schema
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import BoundTool, as_tool, tool_schema

EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, EMPTY),
        ({}, EMPTY),
        ([], EMPTY),
        (True, EMPTY),
        (False, {"not": {}, **EMPTY}),
        ({"type": None, "properties": None, "required": None}, EMPTY),
        ({"properties": []}, EMPTY),
        (
            {"properties": {"a": True, "b": False, "c": None, "d": "string"}},
            {"properties": {"a": {}, "b": {"not": {}}, "c": {}, "d": {"description": "string"}}, "type": "object"},
        ),
        ({**EMPTY, "required": ["a", 7]}, {**EMPTY, "required": ["a"]}),
        ({**EMPTY, "required": "a"}, EMPTY),
        (
            {**EMPTY, "properties": {"a": {"type": "string", "required": True}}},
            {**EMPTY, "properties": {"a": {"type": "string"}}, "required": ["a"]},
        ),
        ({**EMPTY, "anyOf": [True, {"properties": []}]}, {**EMPTY, "anyOf": [{}, {"properties": {}}]}),
        (
            {**EMPTY, "properties": {"a": {"items": {"properties": None}}}},
            {**EMPTY, "properties": {"a": {"items": {}}}},
        ),
    ],
)  # fmt: skip
def test_what_others_write_becomes_what_readers_expect(given, meant):
    assert object_schema(given) == meant


@pytest.mark.parametrize(
    "schema",
    [
        {**EMPTY, "required": [], "additionalProperties": False},
        {**EMPTY, "properties": {"properties": {"type": "string"}, "required": {"type": "boolean"}}},
        {**EMPTY, "properties": {"a": {"type": ["integer", "null"], "default": None, "enum": [1, None]}}},
        {**EMPTY, "properties": {"a": {"default": {"properties": []}, "const": None, "items": True}}},
        {**EMPTY, "properties": {"a": {"items": [{"type": "string"}], "$ref": "#/$defs/a"}}, "$defs": {"a": {}}},
    ],
)  # fmt: skip
def test_a_well_formed_schema_stays_as_it_is(schema):
    assert object_schema(schema) == schema


@pytest.mark.parametrize("value", ["string", 7, ["a"], 1.5])
def test_what_is_no_schema_is_refused(value):
    with pytest.raises(ValueError, match="the parameters of a tool are a JSON schema, not"):
        object_schema(value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["properties", "required", "items", "anyOf", "$defs", "default", "type", "not", "enum"]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["properties", "required", "anyOf", "type", "a"]), ANYTHING))
def test_what_was_put_right_once_is_right(schema):
    once = object_schema(schema)
    assert object_schema(once) == once
    assert isinstance(once["properties"], dict)
    assert all(isinstance(field, dict) for field in once["properties"].values())
    assert isinstance(once.get("required", []), list)


@pytest.mark.parametrize(
    ("schema", "may"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}, True),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"a": {"type": "string"}}}, False),
        ({"properties": {"a": {"$ref": "#"}}}, False),
        ({"properties": {"a": {"$ref": "https://example.com/a"}}}, False),
        ({"items": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, False),
    ],
)
def test_a_reference_to_itself_or_to_nothing_cannot_be_replaced(schema, may):
    assert inlinable(schema) is may


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


def parameters_of(tool: Any) -> Any:
    return tool_schema(as_tool(tool))["function"]["parameters"]


def test_an_enum_arrives_with_its_values():
    def page(level: Level) -> str:
        """Page an engineer."""
        return ""

    assert parameters_of(page)["properties"] == {"level": {"enum": ["low", "high"], "type": "string"}}


def test_an_argument_that_holds_others_of_its_kind_arrives_whole():
    def plant(tree: Tree) -> str:
        """Plant a tree."""
        return ""

    parameters = parameters_of(plant)
    assert parameters["properties"]["tree"] == {"$ref": "#/$defs/Tree"}
    assert parameters["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert not {"title", "description"} & parameters.keys()


def remote(schema: dict[str, Any]) -> StructuredTool:
    """A tool as an MCP client makes it: a JSON schema, and no code of its own."""

    async def call(**arguments: Any) -> str:
        return json.dumps(arguments)

    return StructuredTool(name="remote", description="Do it.", args_schema=schema, coroutine=call)


@pytest.mark.parametrize(
    "schema",
    [
        {}, {"properties": []}, {"properties": None, "required": None}, {"properties": {"a": True}},
        {"properties": {"title": True}}, {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"type": ["integer", "null"]}}},
    ],
)  # fmt: skip
async def test_a_tool_of_another_server_is_taken_whatever_its_schema(schema):
    box = Toolbox([remote(schema)])
    assert box.schemas[0]["function"]["parameters"] == object_schema(schema)
    [(message, run)] = await box.run([tool_call("remote", '{"a": 1}', "c")])
    assert (message["content"], run.error) == ('{"a": 1}', None)


def test_a_tool_that_was_bound_by_hand_has_a_well_formed_schema():
    async def run(arguments: dict[str, Any]) -> str:
        return ""

    bound = BoundTool("f", {"type": "function", "function": {"name": "f"}}, run)
    assert bound.schema["function"] == {"name": "f", "parameters": EMPTY}
