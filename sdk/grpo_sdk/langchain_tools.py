"""Tools of LangChain's as LangChain calls them, and ours as tools of LangChain's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grpo_sdk.tool_results import tool_text
from grpo_sdk.tools import BoundTool, HandledToolError, Runner, ToolCallError, as_tool, invalid_arguments

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool


def through_langchain(tool: BaseTool) -> Runner:
    """What calls ``tool`` through LangChain, which honours its callbacks and its handlers of errors."""
    from pydantic import ValidationError

    async def run(arguments: dict[str, Any]) -> Any:
        said: list[Any] = []
        try:
            result = await _noting(tool, said).ainvoke(arguments)
        except ValidationError as problem:
            raise ToolCallError(invalid_arguments(tool.name, problem)) from None
        if said:
            raise HandledToolError(tool_text(said[0]))
        return result

    return run


def _noting(tool: BaseTool, said: list[Any]) -> BaseTool:
    """``tool``, whose handlers of errors also add to ``said`` what the model is answered.

    Asked with arguments alone, LangChain does not say whether a result is an error that was handled.
    """
    handlers: dict[str, Any] = {}
    if tool.handle_tool_error:
        handlers["handle_tool_error"] = _noted(tool.handle_tool_error, said)
    if tool.handle_validation_error:
        how = tool.handle_validation_error
        handlers["handle_validation_error"] = _noted(
            "Tool input validation error" if how is True else how, said
        )
    return tool.model_copy(update=handlers) if handlers else tool


def _noted(how: Any, said: list[Any]) -> Callable[[Exception], Any]:
    def handle(problem: Exception) -> Any:
        if how is True:
            answer = problem.args[0] if problem.args else "Tool execution error"
        else:
            answer = how(problem) if callable(how) else how
        said.append(answer)
        return answer

    return handle


def langchain_tool(bound: BoundTool, name: str) -> BaseTool:
    """``bound`` as a tool that LangChain calls, by coroutines only."""
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool, StructuredTool, ToolException

    if isinstance(bound.source, BaseTool | BaseRetriever) or callable(bound.source):
        return as_tool(bound.source, name=name)

    async def call(**arguments: Any) -> str:
        if bound.ready is not None:
            await bound.ready()
        try:
            return tool_text(await bound.run(arguments))
        except ToolCallError as problem:
            raise ToolException(str(problem)) from problem

    function = bound.schema["function"]
    return StructuredTool(
        name=name,
        description=function.get("description", ""),
        args_schema=function["parameters"],
        coroutine=call,
        handle_tool_error=True,
    )
