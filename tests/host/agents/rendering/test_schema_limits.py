from __future__ import annotations

import pytest

from grpo_host.agents.rendering.schema_limits import check_schema, enforceable
from grpo_sdk.errors import CapabilityError

TEXT = {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False},
        {"$ref": "#/$defs/A", "description": "An A.", "$defs": {"A": TEXT}},
        {"anyOf": [TEXT, {"type": "null"}], "default": None, "title": "Word"},
        {"type": "object", "oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}}]},
        {"type": "string", "pattern": "^[a-z]+$"},
        {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3, "uniqueItems": False},
        {"type": "integer", "minimum": 1, "maximum": 5},
        {"type": "integer", "multipleOf": 5},
    ],
)
def test_what_is_enforced_is_taken(schema):
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array", "uniqueItems": True}, "json_schema: uniqueItems cannot be enforced"),
        ({"properties": {"a": {"not": TEXT}}}, r"properties\.a\.not cannot"),
        ({"items": {"anyOf": [TEXT, {"if": {}, "then": {}}]}}, r"items\.anyOf\[1\]\.if cannot"),
        ({"$defs": {"A": {"contains": TEXT}}}, r"\$defs\.A\.contains cannot"),
        ({"patternProperties": {"^a": TEXT}}, "patternProperties cannot"),
        ({"allOf": [TEXT, {"minLength": 2}]}, "allOf of more than one schema cannot"),
        ({"anyOf": [{"minLength": 2}], "type": "string"}, "type beside anyOf cannot"),
        ({"$ref": "#/$defs/A", "maxLength": 2}, r"maxLength beside \$ref cannot"),
        ({"$ref": "https://example.com/a"}, r'\$ref to "https://example.com/a" cannot'),
        ({"type": "number", "multipleOf": 2}, "multipleOf, but of an integer without bounds, cannot"),
        ({"type": "string", "pattern": "(?=a)b"}, "a pattern that looks around cannot"),
        ({"maxLength": 4}, "minLength or maxLength without a type cannot"),
        ({"type": "string", "format": "date", "maxLength": 4}, "minLength or maxLength beside pattern"),
        (
            {"required": ["a"], "properties": {"b": TEXT}},
            'required: "a", which is none of the properties, cannot',
        ),
        ({"properties": {"a": False}}, r"properties\.a: false, which nothing fits, cannot"),
    ],
)
def test_what_would_go_unnoticed_is_refused_with_its_place(schema, said):
    with pytest.raises(CapabilityError, match=said):
        check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": TEXT, "uniqueItems": True}, '["a","a"]'),
        ({"type": "object", "properties": {"a": TEXT}, "dependentRequired": {"a": ["b"]}}, '{"a":"x"}'),
        ({"anyOf": [{"minLength": 2}], "type": "string"}, "1"),
        ({"type": "integer", "minimum": 1, "multipleOf": 2}, "3"),
        ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, "4"),
        ({"type": "string", "pattern": "^a+$", "minLength": 2}, '"a"'),
    ],
)
def test_xgrammar_lets_pass_what_is_refused_here(schema, text):
    """If this fails, a newer xgrammar enforces it: take it off the list."""
    testing = pytest.importorskip("xgrammar.testing")
    grammar = pytest.importorskip("xgrammar").Grammar.from_json_schema(schema)
    assert testing._is_grammar_accept_string(grammar, text)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('"ab"', True),
        ('"é😀"', True),
        ('"a"', False),
        ('"abcd"', False),
        ('"a\x1cb"', False),
        ('"a\tb"', False),
    ],
)
def test_a_string_of_bounded_length_holds_nothing_that_json_forbids(text, fits):
    testing = pytest.importorskip("xgrammar.testing")
    bounded = {"type": "string", "minLength": 2, "maxLength": 3}
    schema = {"type": "object", "properties": {"a": {"anyOf": [bounded]}}, "required": ["a"]}
    grammar = pytest.importorskip("xgrammar").Grammar.from_json_schema(enforceable(schema))
    assert testing._is_grammar_accept_string(grammar, f'{{"a": {text}}}') is fits
