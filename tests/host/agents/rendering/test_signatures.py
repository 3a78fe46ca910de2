from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from grpo_host.agents.rendering.signatures import describe_tools
from grpo_sdk.tools import as_tool, tool_schema

FORM = 'To use a tool, reply only with: <tool_call>{"name": "...", "arguments": {...}}</tool_call>'


def described(parameters: Any, **more: Any) -> str:
    function = {"name": "f", "description": "Do it.", "parameters": parameters, **more}
    first, *lines, form = describe_tools([{"type": "function", "function": function}]).split("\n")
    assert (first, form) == ("Tools:", FORM)
    return "\n".join(lines)


def of(field: Any) -> str:
    """What is said of a tool with the one argument ``x``."""
    return described({"type": "object", "properties": {"x": field}, "required": ["x"]})


def test_a_plain_tool_is_one_line():
    def look_up(order_id: str, day: int, price: float, gift: bool) -> str:
        """Look up an order."""
        return ""

    text = describe_tools([tool_schema(as_tool(look_up))])
    line = "look_up(order_id: string, day: integer, price: number, gift: boolean): Look up an order."
    assert text == f"Tools:\n{line}\n{FORM}"


def test_all_that_a_python_tool_says_of_its_arguments_is_said():
    def page(
        level: Literal["low", "normal", "urgent"],
        team: Annotated[str, Field(min_length=2, max_length=9)] = "ops",
        times: int | None = None,
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
    ) -> str:
        """Page an engineer.

        Args:
            level: How urgent it is.
            team: Who is called.
        """
        return ""

    assert describe_tools([tool_schema(as_tool(page))]).split("\n")[1:-1] == [
        'page(level: "low" | "normal" | "urgent", team?: string = "ops", times?: integer | null = null, '
        "share?: number = 0.5): Page an engineer.",
        "  level: How urgent it is.",
        "  team (maxLength 9, minLength 2): Who is called.",
        "  share (maximum 1, minimum 0)",
    ]


@pytest.mark.parametrize(
    ("field", "lines"),
    [
        ({"type": "string"}, ["f(x: string): Do it."]),
        ({"type": ["integer", "null"]}, ["f(x: integer | null): Do it."]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["f(x: integer | null): Do it."]),
        ({"enum": ["a", 1, True]}, ['f(x: "a" | 1 | true): Do it.']),
        ({"type": "integer", "enum": [1, 2], "title": "X"}, ["f(x: 1 | 2): Do it."]),
        ({"type": "string", "title": "Order number"}, ["f(x: string): Do it.", '  x (title "Order number")']),
        ({"type": "string", "default": None}, ["f(x: string = null): Do it."]),
        ({"type": "string", "const": "a"}, ["f(x: string): Do it.", '  x (const "a")']),
        ({"type": "string", "format": "date"}, ["f(x: string): Do it.", '  x (format "date")']),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            ["f(x: string | null): Do it.", '  x (enum ["a", null])'],
        ),
        ({"type": "string", "enum": ["a", 1]}, ["f(x: string): Do it.", '  x (enum ["a", 1])']),
        ({"type": "string", "description": "A\nB"}, ["f(x: string): Do it.", "  x: A", "    B"]),
    ],
)
def test_what_a_schema_says_of_an_argument_stands_in_the_signature_or_below_it(field, lines):
    assert of(field).split("\n") == lines


@pytest.mark.parametrize(
    "field",
    [
        True, False, {}, None, "string", {"type": "array", "items": {"type": "string"}}, {"type": "null"},
        {"$ref": "#/$defs/x"}, {"anyOf": [{"type": "string", "minLength": 3}, {"type": "null"}]},
        {"type": ["array", "null"]}, {"type": []}, {"anyOf": []}, {"anyOf": [True]}, {"type": {"a": 1}},
        {"type": "object", "properties": {"y": {"type": "string"}}},
    ],
)  # fmt: skip
def test_an_argument_that_is_not_simple_is_described_by_the_whole_schema(field):
    assert json.loads(of(field))["parameters"]["properties"].keys() == {"x"}


@pytest.mark.parametrize(
    "more",
    [
        {"additionalProperties": {"type": "string"}}, {"additionalProperties": True}, {"minProperties": 1},
        {"anyOf": [{"required": ["x"]}]}, {"$defs": {"a": {"type": "string"}}}, {"required": ["y"]},
        {"type": ["object", "null"]}, {"description": "Give either."}, {"properties": {"a, b": {"type": "string"}}},
    ],
)  # fmt: skip
def test_what_a_schema_says_of_all_arguments_together_is_not_lost(more):
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}, **more}
    assert json.loads(described(parameters)) == {
        "name": "f", "description": "Do it.", "parameters": parameters,
    }  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [
        None, {}, [], True, {"type": "object"}, {"properties": []}, {"properties": None, "required": None},
        {"type": "object", "properties": {}, "additionalProperties": False, "$schema": "x", "title": "f"},
    ],
)  # fmt: skip
def test_a_tool_without_arguments_has_none(parameters):
    assert described(parameters) == "f(): Do it."


def test_a_tool_without_a_description_is_its_signature():
    assert described({}, description=None) == described({}, description="") == "f()"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    [
        "type", "properties", "required", "enum", "const", "default", "anyOf", "oneOf", "allOf", "not", "items",
        "prefixItems", "additionalProperties", "$ref", "$defs", "definitions", "title", "description", "format",
        "minimum", "maxLength", "pattern", "patternProperties", "nullable", "examples",
    ]
)  # fmt: skip
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
SCHEMAS = st.recursive(
    st.booleans() | st.none() | st.fixed_dictionaries({"type": TYPES | st.lists(TYPES, max_size=3)}),
    lambda inner: st.dictionaries(
        KEYWORDS,
        inner | JSON | st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_size=5,
    ),
    max_leaves=10,
)


@settings(max_examples=60)
@given(SCHEMAS)
def test_any_schema_of_an_argument_can_be_described(schema):
    assert of(schema).startswith(("f(x: ", '{"name": "f"'))


@settings(max_examples=60)
@given(st.dictionaries(KEYWORDS, JSON | SCHEMAS | st.dictionaries(st.text(max_size=4), SCHEMAS), max_size=5))
def test_any_schema_of_a_tool_can_be_described(schema):
    assert described(schema).startswith(("f(", '{"name": "f"'))


FIELDS = st.fixed_dictionaries(
    {"type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True)},
    optional={
        "enum": st.lists(st.text(max_size=5) | st.integers(), min_size=1, max_size=3),
        "default": JSON,
        "description": st.text(alphabet="abc .\n", max_size=12).filter(str.strip),
        "minimum": st.integers(),
        "pattern": st.text(max_size=5),
    },
)


@settings(max_examples=60)
@given(FIELDS)
def test_nothing_that_a_schema_says_of_an_argument_is_lost(field):
    text = of(field)
    for keyword, value in field.items():
        said = value if isinstance(value, list) and keyword in ("type", "enum") else [value]
        for item in said:
            plain = keyword in ("type", "description") and not text.startswith("{")
            words = str(item).replace("\n", "\n    ") if plain else json.dumps(item, ensure_ascii=False)
            if keyword == "type" and text.startswith("f(x: ") and "enum" in field:
                continue  # its values may say it
            assert words in text
