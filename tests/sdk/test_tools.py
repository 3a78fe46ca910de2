from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, tool
from pydantic import BaseModel
from tests.sdk.calling import call, one

from grpo_sdk import tool_call
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import as_tool, bind, tool_schema


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


async def greet(name: str) -> str:
    """Greet somebody."""
    await asyncio.sleep(0)
    return f"Hello {name}"


class Point(BaseModel):
    x: int


class Shout(BaseTool):
    name: str = "shout"
    description: str = "Shout a text."

    def _run(self, text: str) -> str:
        return text.upper()


async def test_functions_coroutines_and_base_tools_are_all_tools():
    tools = [add, greet, Shout()]
    assert (await one(tools, "add", {"a": 1}))[0] == "3"
    assert (await one(tools, "greet", {"name": "Ann"}))[0] == "Hello Ann"
    assert (await one(tools, "shout", {"text": "hi"}))[0] == "HI"
    assert Toolbox(tools).names == ["add", "greet", "shout"]


async def test_a_decorated_tool_is_taken_as_it_is():
    @tool
    def double(x: int) -> int:
        """Double a number."""
        return 2 * x

    assert as_tool(double) is double
    assert (await one([double], "double", {"x": 4}))[0] == "8"


def test_a_docstring_in_google_style_describes_the_arguments():
    schema = tool_schema(as_tool(add))["function"]
    assert schema["description"] == "Add two numbers."
    assert schema["parameters"]["properties"]["a"]["description"] == "The first."
    assert schema["parameters"]["required"] == ["a"]


def test_a_tool_can_be_renamed():
    assert as_tool(add, name="sum_up").name == "sum_up"
    renamed = as_tool(Shout(), name="cry")
    assert (renamed.name, Shout().name) == ("cry", "shout")
    box = Toolbox()
    box.add(add, name="sum_up")
    assert box.names == ["sum_up"]
    assert box.schemas[0]["function"]["name"] == "sum_up"


class OrderPapers(BaseRetriever):
    """Finds papers about an order."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(f"{query}: paid"), Document(f"{query}: sent")]


async def test_a_retriever_is_a_tool_that_is_asked_for_texts():
    box = Toolbox([OrderPapers(), bind(OrderPapers(), name="papers")])

    ((answer, _),) = await box.run([tool_call("papers", '{"query": "N1"}', "a1")])

    assert box.names == ["order_papers", "papers"]
    assert box.schemas[0]["function"]["description"] == "Finds papers about an order."
    assert answer["content"] == "N1: paid\n\nN1: sent"


def test_what_is_no_tool_is_refused():
    with pytest.raises(TypeError, match="a tool is a BaseTool, a retriever or a function, not int"):
        as_tool(3)


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ValueError, match='two tools are called "add"'):
        Toolbox([add, add])


async def test_bound_methods_keep_their_own_state():
    class Counter:
        def __init__(self, start: int) -> None:
            self.value = start

        async def count(self, by: int) -> int:
            """Count on."""
            self.value += by
            return self.value

    first, second = Counter(0), Counter(100)
    assert (await one([first.count], "count", {"by": 1}))[0] == "1"
    assert (await one([second.count], "count", {"by": 1}))[0] == "101"
    assert (await one([first.count], "count", {"by": 1}))[0] == "2"


async def test_closures_of_one_function_keep_their_own_values():
    def made(value: int):
        def reveal() -> int:
            """Reveal the value."""
            return value

        return reveal

    assert [(await one([made(n)], "reveal", {}))[0] for n in (1, 2)] == ["1", "2"]


async def test_an_unknown_tool_is_answered_with_the_known_ones():
    content, run = await one([add, greet], "ad", {})
    assert content == 'Error: no tool "ad"; the tools are: add, greet'
    assert run.error == 'no tool "ad"; the tools are: add, greet'
    assert (await one([], "x", {}))[0] == 'Error: no tool "x"; the tools are: none'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{", "the arguments are not valid JSON"),
        ("[1]", "the arguments are not a JSON object"),
        ({}, "invalid arguments for add: a: Field required"),
        ({"a": "x"}, "invalid arguments for add: a: Input should be a valid integer"),
    ],
)
async def test_invalid_arguments_are_explained_to_the_model(arguments, message):
    content, run = await one([add], "add", arguments)
    assert content.startswith(f"Error: {message}")
    assert run.error is not None


async def test_empty_arguments_are_no_arguments():
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert (await one([now], "now", ""))[0] == "noon"


async def test_invalid_arguments_of_a_base_tool_are_explained_too():
    content, run = await one([Shout()], "shout", {})
    assert run.error
    assert content.startswith("Error: ")


async def test_an_exception_is_an_answer():
    def fail(x: int) -> int:
        """Fail."""
        raise KeyError("gone")

    content, run = await one([fail], "fail", {"x": 1})
    assert content == "Error: KeyError: 'gone'"
    assert run.error == "KeyError: 'gone'"


async def test_the_first_traceback_of_each_kind_is_logged(caplog):
    def prices(item: str) -> str:
        """Look a price up."""
        return {}[item]

    calls = [tool_call("prices", f'{{"item": "{item}"}}', item) for item in ("roll", "bun")]
    await Toolbox([prices]).run(calls)
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [
        "tool \"prices\": KeyError: 'roll'"
    ]
    assert "return {}[item]" in caplog.text


async def test_a_stop_iteration_does_not_end_the_loop():
    def fail() -> int:
        """Fail."""
        raise StopIteration

    assert "StopIteration" in (await one([fail], "fail", {}))[0]


async def test_one_failing_call_leaves_the_others_alone():
    answers = await call([add], ("add", {"a": 1}), ("nope", {}), ("add", {"a": 2}))
    assert [run.error is None for _, run in answers] == [True, False, True]


async def test_injected_arguments_are_not_shown_to_the_model():
    @tool
    def greet_user(text: str, user: Annotated[str, InjectedToolArg] = "nobody") -> str:
        """Greet the user."""
        return f"{text} {user}"

    properties = tool_schema(greet_user)["function"]["parameters"]["properties"]
    assert list(properties) == ["text"]
    assert (await one([greet_user], "greet_user", {"text": "Hi"}))[0] == "Hi nobody"


async def test_a_pydantic_argument_arrives_as_a_model():
    def show(point: Point) -> str:
        """Show a point."""
        return type(point).__name__ + str(point.x)

    made = StructuredTool.from_function(show)
    assert (await one([made], "show", {"point": {"x": 3}}))[0] == "Point3"


@pytest.mark.parametrize(
    ("value", "text"), [({"a": "é"}, '{"a": "é"}'), ([1, None], "[1, null]"), (None, "null")]
)
async def test_values_become_json(value, text):
    def give() -> Any:
        """Give it."""
        return value

    assert (await one([give], "give", {}))[0] == text


def test_an_extended_toolbox_leaves_the_first_as_it_was():
    box = Toolbox([add])
    more = box.extended([greet])
    assert (box.names, more.names) == (["add"], ["add", "greet"])
    assert "greet" in more
    assert len(box) == 1


def test_functions_of_the_same_code_have_names_of_their_own():
    def named(name):
        def function() -> str:
            """Say the name."""
            return name

        function.__name__ = name
        return function

    assert [bind(named(name)).name for name in ("one", "two")] == ["one", "two"]


def unreadable(when: Nowhere) -> str:  # noqa: F821
    """Tell the day."""
    return str(when)


def no_schema(loop: asyncio.AbstractEventLoop) -> str:
    """Run it."""
    return str(loop)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            unreadable,
            r'the type hints of the tool "unreadable" cannot be read: name \'Nowhere\' is not defined',
        ),
        (no_schema, r'the type hints of the tool "no_schema" have no JSON schema: '),
    ],
)
def test_type_hints_of_which_no_schema_can_be_made_are_named(function, said):
    with pytest.raises(TypeError, match=said):
        bind(function)


async def test_a_tool_that_panics_as_an_extension_in_rust_does_is_an_error_of_the_call():
    class Panic(BaseException):
        pass

    def panics() -> str:
        """Panic."""
        raise Panic("out of bounds")

    [(message, record)] = await Toolbox([panics]).run([tool_call("panics", "{}", "c")])
    assert record.error == "Panic: out of bounds"
    assert message["content"] == "Error: Panic: out of bounds"
