"""Tools: a langchain-core ``BaseTool``, or a function that becomes one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from grpo_sdk.altered import altered
from grpo_sdk.blocking import call_blocking, settled
from grpo_sdk.deadline import Leavable
from grpo_sdk.messages import ToolSchema
from grpo_sdk.numbers import check_number
from grpo_sdk.schemas import inlinable, object_schema

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool
    from pydantic import BaseModel

ToolLike: TypeAlias = "BaseTool | BaseRetriever | BoundTool | Callable[..., Any]"
"""What can be given as a tool: a langchain-core tool or retriever, or a function with type hints and a
docstring."""


MALFORMED_CALL = "malformed_tool_call"
"""Name of a call that could not be parsed; its arguments hold all that the model wrote, marks included.

For trajectories and the agent's own loop only. Other readers get the text instead.
"""


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Limits of a tool call."""

    seconds: float = 10.0
    """Longest time of one call; the model is told that it took too long."""
    output_chars: int = 4000
    """Longer output is cut, with a mark."""
    parallel: int = 8
    """How many calls of one message run at the same time."""

    def __post_init__(self) -> None:
        check_number("a tool's limit in seconds", self.seconds, float)
        check_number("a tool's limit in characters", self.output_chars, int)
        check_number("the number of tools that run at the same time", self.parallel, int)


def as_tool(tool: ToolLike, *, name: str | None = None) -> BaseTool:
    """``tool`` as a ``BaseTool``; a function's type hints and docstring become its schema.

    A function without a docstring is described by its name, and a retriever, which is asked for texts, by
    the first line of its class's. Raises ``TypeError`` if ``tool`` is none of these.
    """
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool, StructuredTool

    from grpo_sdk.langchain_tools import langchain_tool

    if isinstance(tool, BaseRetriever):
        return _retriever_tool(tool, name)
    if isinstance(tool, BaseTool):
        return tool if name in (None, tool.name) else tool.model_copy(update={"name": name})
    if isinstance(tool, BoundTool):
        return langchain_tool(tool, name or tool.name)
    if not callable(tool):
        raise TypeError(f"a tool is a BaseTool, a retriever or a function, not {type(tool).__name__}")
    label = name or str(getattr(tool, "__name__", type(tool).__name__))
    described = bool(inspect.getdoc(tool))
    is_async = inspect.iscoroutinefunction(tool)
    with _hints_read(label):
        return StructuredTool.from_function(
            func=None if is_async else tool,
            coroutine=tool if is_async else None,
            name=label,
            description=None if described else label.replace("_", " "),
            parse_docstring=described and _has_google_docstring(tool),
        )


@contextmanager
def _hints_read(label: str) -> Iterator[None]:
    """Say in words that of a function's type hints no schema can be made."""
    from pydantic.errors import PydanticUserError

    try:
        yield
    except NameError as problem:
        raise TypeError(
            f'the type hints of the tool "{label}" cannot be read: {problem}. What they name is to be there '
            "when the tool is made: imported at the top of the file, and not under TYPE_CHECKING"
        ) from problem
    except PydanticUserError as problem:
        raise TypeError(
            f'the type hints of the tool "{label}" have no JSON schema: {str(problem).splitlines()[0]}'
        ) from problem


def _has_google_docstring(function: Callable[..., Any]) -> bool:
    return "\nArgs:\n" in (inspect.getdoc(function) or "")


def _retriever_tool(retriever: BaseRetriever, name: str | None) -> BaseTool:
    from langchain_core.tools import create_retriever_tool

    own = retriever.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(retriever).__name__).lower()
    described = (inspect.getdoc(type(retriever)) or "Search for texts.").splitlines()[0]
    return create_retriever_tool(retriever, name or own, described)


def tool_schema(tool: BaseTool) -> ToolSchema:
    """What the model is shown of ``tool``; injected arguments are left out."""
    from langchain_core.utils.function_calling import convert_to_openai_function
    from langchain_core.utils.json_schema import dereference_refs

    shown: Any = tool.tool_call_schema
    if isinstance(shown, dict):
        theirs = object_schema(shown)
    else:  # pydantic 1 has no model_json_schema
        theirs = shown.model_json_schema() if hasattr(shown, "model_json_schema") else {}
    if not inlinable(theirs):  # LangChain would leave out what a reference names
        parameters = theirs
    elif isinstance(shown, dict):  # of another server, say
        parameters = dereference_refs(theirs)
        parameters.pop("$defs", None)
        parameters.pop("definitions", None)
    else:
        return {"type": "function", "function": convert_to_openai_function(tool)}
    parameters = {key: said for key, said in parameters.items() if key not in ("title", "description")}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


class ToolCallError(Exception):
    """The model called a tool wrongly: a tool raises it, and the model is answered with its text alone.

    Whatever else a tool raises is answered with the exception's type too.
    """


class HandledToolError(ToolCallError):
    """A LangChain tool's ``handle_tool_error`` or ``handle_validation_error`` says how to answer."""


Runner: TypeAlias = Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool ready to be shown and run."""

    name: str
    """As the model calls it."""
    schema: ToolSchema
    """What the model is shown."""
    run: Runner
    """Takes the arguments, parsed; checks them and returns the tool's result."""
    source: Any = None
    """What it was made from, a ``BaseTool`` or a function."""
    through_langchain: bool = False
    """Whether its calls are LangChain's, which tells callbacks of them."""
    ready: Callable[[], Awaitable[None]] | None = None
    """Awaited before a call, outside of its time limit."""

    @property
    def described(self) -> bool:
        """Whether the model is told more than its name."""
        return is_described(self.schema["function"])

    def __post_init__(self) -> None:
        function = self.schema["function"]
        whole = {**function, "parameters": object_schema(function.get("parameters"))}
        object.__setattr__(self, "schema", {"type": "function", "function": whole})


def is_described(function: Mapping[str, Any]) -> bool:
    """Whether a tool's schema says more than the name, which alone a function without a docstring has."""
    said = str(function.get("description") or "").strip()
    return said.replace(" ", "_") not in ("", function["name"])


def bind(tool: ToolLike, *, name: str | None = None) -> BoundTool:
    """``tool`` with its schema and the shortest way to run it with validated arguments.

    Functions and plain ``StructuredTool``s are called without LangChain's run manager, which
    costs 0.4 ms a call; a tool with callbacks, artifacts or its own ``_arun`` goes through
    ``ainvoke``. Raises as ``as_tool`` does.
    """
    if isinstance(tool, BoundTool):
        return tool if name in (None, tool.name) else _renamed(tool, str(name))
    if inspect.isroutine(tool):  # first: environments bring functions anew for each episode
        return _bound_function(tool, name)
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool

    from grpo_sdk.langchain_tools import through_langchain

    if isinstance(tool, BaseTool | BaseRetriever):
        made = as_tool(tool, name=name)
        form = _plain_form(made)
        run = through_langchain(made) if form is None else _direct(form, made.coroutine or made.func)  # type: ignore[attr-defined]
        return BoundTool(made.name, tool_schema(made), run, tool, through_langchain=form is None)
    return _bound_function(tool, name)


def _bound_function(function: Callable[..., Any], name: str | None) -> BoundTool:
    form = _function_form(function, name)
    return altered(form.shown, run=_direct(form, function), source=function)


def _renamed(tool: BoundTool, name: str) -> BoundTool:
    function = {**tool.schema["function"], "name": name}
    return replace(tool, name=name, schema={"type": "function", "function": function})


@dataclass(frozen=True, slots=True)
class _Form:
    """The part of a function tool that all instances of the function share."""

    shown: BoundTool
    """With a schema that was checked, and nothing to run."""
    model: type[BaseModel]
    fields: tuple[str, ...]
    is_async: bool


_forms: dict[Any, _Form] = {}


def _function_form(function: Callable[..., Any], name: str | None) -> _Form:
    """The form of ``function``, made once for all closures and bound methods of the same code.

    An environment makes new tools for each episode; building their schemas each time would
    cost more than all the rest of an episode.
    """
    plain = getattr(function, "__func__", function)
    looks = (
        (plain.__name__, plain.__defaults__, plain.__kwdefaults__, plain.__annotations__, plain.__doc__)
        if (inspect.isfunction(plain))
        else None
    )
    key = (getattr(plain, "__code__", plain), name, repr(looks))
    try:
        known = _forms.get(key)
    except TypeError:  # a callable object that cannot be hashed
        return _made_form(function, name)
    if known is None:
        if len(_forms) >= 4096:
            _forms.clear()
        known = _forms[key] = _made_form(function, name)
    return known


def _made_form(function: Callable[..., Any], name: str | None) -> _Form:
    made = as_tool(function, name=name)
    with _hints_read(made.name):
        form = _plain_form(made)
    if form is None:
        raise TypeError(f'the function of the tool "{made.name}" takes callbacks or a config')
    return form


def _plain_form(tool: BaseTool) -> _Form | None:
    """The form of a tool that can be called directly, or None."""
    from langchain_core.tools import StructuredTool
    from pydantic import BaseModel

    if type(tool) is not StructuredTool:
        return None
    schema, function = tool.args_schema, tool.coroutine or tool.func
    plain = (
        not tool.callbacks
        and tool.response_format == "content"
        and isinstance(schema, type)
        and issubclass(schema, BaseModel)
        and function is not None
        and not (tool.handle_tool_error or tool.handle_validation_error)
        and not {"callbacks", "run_manager", "config"} & set(inspect.signature(function).parameters)
    )
    if not plain:
        return None
    model = cast("type[BaseModel]", schema)
    shown = BoundTool(tool.name, tool_schema(tool), _nothing)
    return _Form(shown, model, tuple(model.model_fields), tool.coroutine is not None)


async def _nothing(_: dict[str, Any]) -> None: ...


def _direct(form: _Form, function: Callable[..., Any]) -> Runner:
    from pydantic import ValidationError

    async def run(arguments: dict[str, Any]) -> Any:
        try:
            valid = form.model.model_validate(arguments)
        except ValidationError as problem:
            raise ToolCallError(invalid_arguments(form.shown.name, problem)) from None
        values = {name: getattr(valid, name) for name in form.fields}
        if form.is_async:
            return await Leavable(function(**values))
        return await settled(await call_blocking(function, **values))

    return run


def invalid_arguments(name: str, problem: Any) -> str:
    """What a pydantic ``ValidationError`` tells the model that called ``name``."""
    details = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}"
        for item in problem.errors(include_url=False)
    )
    return f"invalid arguments for {name}: {details}"
