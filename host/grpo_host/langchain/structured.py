"""Answers that follow a schema: ``ChatGrpo.with_structured_output``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from grpo_sdk.errors import ConfigError

Method: TypeAlias = Literal["json_schema", "function_calling", "json_mode"]


def structured(
    model: BaseChatModel, schema: Any, method: str, *, include_raw: bool, tools: Any, kwargs: dict[str, Any]
) -> Runnable[Any, Any]:
    """``model`` with a parser that reads its answers into ``schema``."""
    typed = isinstance(schema, type) and is_basemodel_subclass(schema)
    kwargs["ls_structured_output_format"] = {"kwargs": {"method": method}, "schema": schema}
    llm: Runnable[Any, AIMessage]
    parser: Runnable[Any, Any]
    if schema is None and method != "json_mode":
        raise ConfigError(f'with_structured_output by "{method}" needs a schema')
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        llm = model.bind_tools([schema], tool_choice=name, parallel_tool_calls=False, **kwargs)
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if typed
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    elif method in ("json_schema", "json_mode"):
        asked: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            asked = {"type": "json_schema", "json_schema": {"schema": convert_to_json_schema(schema)}}
        llm = model.bind_tools(tools or [], response_format=asked, **kwargs)
        parser = PydanticOutputParser(pydantic_object=schema) if typed else JsonOutputParser()
    else:
        raise ConfigError(
            f'with_structured_output knows json_schema, function_calling and json_mode, not "{method}"'
        )
    parser = RunnableGenerator(_whole, _awhole) | parser
    if not include_raw:
        return llm | parser
    read = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    unread = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | read.with_fallbacks([unread], exception_key="parsing_error")


def _whole(chunks: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """``chunks`` of an answer that was not cut: parsers complete what is missing of a JSON text."""
    for chunk in chunks:
        _check(chunk)
        yield chunk


async def _awhole(chunks: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for chunk in chunks:
        _check(chunk)
        yield chunk


def _check(chunk: AIMessage) -> None:
    if chunk.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "the answer was cut before its end, by max_tokens or the context; allow more tokens",
            llm_output=chunk.text,
        )
