"""What the model is shown of a tool's result."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import pathlib

import numpy as np
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import StructuredTool, ToolException, tool
from pydantic import BaseModel

from grpo_sdk import tool_call
from grpo_sdk.tool_results import ToolResultError, tool_text
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import as_tool, bind


class Order(BaseModel):
    id: str
    due: datetime.date


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ({"naïve": [1, None, True]}, '{"naïve": [1, null, true]}'),
        (Order(id="A1", due=datetime.date(2026, 1, 2)), '{"id": "A1", "due": "2026-01-02"}'),
        ([Order(id="A1", due=datetime.date(2026, 1, 2))], '[{"id": "A1", "due": "2026-01-02"}]'),
        ([Point(1)], '[{"x": 1}]'),
        ({"price": decimal.Decimal("1.50"), "c": Colour.RED}, '{"price": "1.50", "c": "red"}'),
        ((pathlib.PurePosixPath("/a"), datetime.time(1)), '["/a", "01:00:00"]'),
        ({"n": np.float32(0.5), "v": np.arange(2)}, '{"n": 0.5, "v": [0, 1]}'),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ([{"type": "text", "text": "a cat"}, {"type": "image", "url": "x"}], "a cat\n[image left out]"),
        ([{"type": "text", "text": "a cat", "price": 3}], '[{"type": "text", "text": "a cat", "price": 3}]'),
        (ToolMessage("said", tool_call_id="1"), "said"),
    ],
)
def test_text_data_models_and_parts_have_a_text(value, text):
    assert tool_text(value) == text


def circle() -> list:
    made: list = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"%PDF", "bytes, which are no text: decode them"),
        ({"file": b"%PDF"}, "bytes"),
        ((n for n in range(3)), "a generator, which yields nothing to the model: return a list"),
        ({1, 2}, "a set, which has no order"),
        (object(), "an object of the class object, which is no JSON: return a text, a dict"),
        ([asyncio.sleep(0)], "a coroutine within its result: await it in the tool"),
        ({(1, 2): 3}, "a dict that is no JSON: keys must be"),
        (circle(), "a list that is no JSON: Circular"),
        ([{"type": "image", "url": "x"}], "content of the type image, and messages hold text only"),
    ],
)
def test_what_no_model_can_be_shown_is_an_error_in_words(value, words):
    with pytest.raises(ToolResultError, match=words.replace("(", r"\(")):
        tool_text(value)


async def answer(made, arguments: str = "{}"):
    [(message, run)] = await Toolbox([made]).run([tool_call(Toolbox([made]).names[0], arguments, "c")])
    return message["content"], run.error


async def test_an_object_is_an_error_of_its_call_alone():
    def look() -> object:
        """Look."""
        return object()

    text, error = await answer(look)
    assert text == f"Error: {error}"
    assert "an object of the class object" in error


async def test_a_plain_function_that_gives_a_coroutine_is_awaited():
    async def later() -> str:
        return "done"

    def start():
        """Start it."""
        return later()

    assert await answer(start) == ("done", None)


def fails(order: int) -> str:
    """Fail."""
    raise ToolException(f"no order {order}")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (True, "no order 3"),
        ("ask again", "ask again"),
        (lambda problem: f"sorry: {problem}", "sorry: no order 3"),
    ],
)
async def test_handle_tool_error_says_what_the_model_is_answered(how, text):
    made = StructuredTool.from_function(fails, handle_tool_error=how)
    assert await answer(made, '{"order": 3}') == (text, text)  # and the record says that it is an error


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (True, "Tool input validation error"),
        ("a number", "a number"),
        (lambda e: f"{e.error_count()} bad", "1 bad"),
    ],
)
async def test_handle_validation_error_says_what_the_model_is_answered(how, text):
    made = StructuredTool.from_function(fails, handle_validation_error=how)
    assert await answer(made, '{"order": "x"}') == (text, text)


async def test_without_a_handler_a_tools_exception_is_answered_with_its_type():
    assert (await answer(StructuredTool.from_function(fails), '{"order": 3}'))[
        0
    ] == "Error: ToolException: no order 3"


async def test_a_handled_error_of_a_tool_with_artifacts_is_an_error_too():
    @tool(response_format="content_and_artifact")
    def both() -> tuple[str, list[int]]:
        """Give both."""
        raise ToolException("nothing there")

    both.handle_tool_error = True
    assert await answer(both) == ("nothing there", "nothing there")


async def test_a_tool_that_is_only_async_works():
    async def slow(order: int) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"order": order}

    schema = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
    made = StructuredTool(name="slow", description="Look.", args_schema=schema, coroutine=slow)
    assert await answer(made, '{"order": 3}') == ('{"order": 3}', None)


async def test_a_bound_tool_is_a_tool_for_langchain():
    schema = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
    bound = bind(StructuredTool(name="slow", description="Look.", args_schema=schema, coroutine=_echo))
    foreign = type(bound)(bound.name, bound.schema, bound.run)
    made = as_tool(foreign, name="mine")
    assert (made.name, made.description, made.args) == ("mine", "Look.", schema["properties"])
    assert await made.ainvoke({"order": 3}) == '{"order": 3}'


async def _echo(**arguments):
    return arguments
