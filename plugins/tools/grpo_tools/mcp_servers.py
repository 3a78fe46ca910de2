"""Tools of an MCP server: a command that is started, or an address."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import urlsplit

from grpo_sdk.bundles import ToolBundle, ToolsLostError
from grpo_sdk.errors import ConfigError, MissingExtraError, did_you_mean
from grpo_sdk.tools import BoundTool, ToolCallError

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

MOST_PAGES = 100
"""Pages of a server's list of tools that are read."""


def mcp_tools(
    *,
    command: Sequence[str] = (),
    url: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    headers: dict[str, str] | None = None,
    per: Literal["run", "episode"] = "run",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    prefix: str = "",
    start_seconds: float = 60.0,
    call_seconds: float = 60.0,
) -> ToolBundle:
    """The tools of an MCP server: of ``command`` over stdio, or at ``url`` over streamable HTTP.

    The server is started, or connected to, once for the run, or ``per: episode``. A command sees the
    variables of ``env`` besides HOME, LOGNAME, PATH, SHELL, TERM and USER; what it writes to standard error
    goes to this process's. ``headers`` are sent with each request to ``url``. ``include`` and ``exclude``
    choose tools by the server's names, and ``prefix`` stands before them as the model calls them.

    A call takes at most ``call_seconds``, and at most ``agent.limits.tool_seconds``. Raises ``ConfigError``
    for options that do not go together.
    """
    _check(command, url, {"env": env, "cwd": cwd}, headers)
    server = f"the MCP server {_shown(command, url)}"

    @asynccontextmanager
    async def opened() -> AsyncIterator[list[BoundTool]]:
        from mcp import Client

        transport = _command(list(command), env, cwd) if command else _address(str(url), headers)
        async with Client(transport, read_timeout_seconds=call_seconds) as client:
            offered = await _offered(client)
            chosen = _chosen(server, [tool.name for tool in offered], include, exclude)
            yield [_bound(client, tool, prefix) for tool in offered if tool.name in chosen]

    return ToolBundle(opened, per=per, seconds=start_seconds, about=server)


def _shown(command: Sequence[str], url: str | None) -> str:
    """What messages call the server: without options, a query or a user, which may hold secrets."""
    if url:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return " ".join(takewhile(lambda word: not word.startswith("--"), command))


def _check(
    command: Sequence[str], url: str | None, of_command: dict[str, object], headers: dict[str, str] | None
) -> None:
    if bool(command) == bool(url):
        raise ConfigError("mcp: give command (a list: the program and its arguments), or else url")
    for name, given in of_command.items():
        if url and given:
            raise ConfigError(f"mcp: {name} is for a command, and a url is given; leave {name} out")
    if command and headers:
        raise ConfigError("mcp: headers are for a url, and a command is given; leave headers out")
    try:
        import mcp.client.client  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the tool mcp", "mcp>=2", "mcp") from error


@asynccontextmanager
async def _command(command: list[str], env: dict[str, str] | None, cwd: Path | None) -> AsyncGenerator[Any]:
    """The streams of a process that is started; ``ToolsLostError`` ends what holds them if it ends."""
    import anyio
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    program, *arguments = command
    asked = StdioServerParameters(command=program, args=arguments, env=env, cwd=cwd)
    async with (
        stdio_client(asked, _standard_error()) as (heard, said),
        anyio.create_task_group() as tasks,
    ):
        onward, heard_here = anyio.create_memory_object_stream[Any](0)

        async def watch() -> None:
            async with onward:
                async for message in heard:
                    await onward.send(message)
            raise ToolsLostError("it has ended")

        tasks.start_soon(watch)
        yield heard_here, said
        tasks.cancel_scope.cancel()


def _standard_error() -> TextIO:
    """Not ``sys.stderr``, which need not be a file: a notebook, a test."""
    return sys.__stderr__ or Path(os.devnull).open("w")


@asynccontextmanager
async def _address(url: str, headers: dict[str, str] | None) -> AsyncGenerator[Any]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(30.0, read=None)  # a call has a limit of its own
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams


async def _offered(client: Client) -> list[Tool]:
    """All tools of the server."""
    tools: list[Tool] = []
    cursor = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise ValueError(f"its list of tools has more than {MOST_PAGES} pages")


def _chosen(
    server: str, names: list[str], include: Sequence[str] | None, exclude: Sequence[str]
) -> Collection[str]:
    for name in (*(include or ()), *exclude):
        if name not in names:
            raise ConfigError(
                f'mcp: {server} has no tool "{name}".{did_you_mean(name, names)} It has: '
                f"{', '.join(names) or 'none'}"
            )
    return {name for name in names if (include is None or name in include) and name not in exclude}


def _bound(client: Client, tool: Tool, prefix: str) -> BoundTool:
    from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

    async def run(arguments: dict[str, Any]) -> Any:
        import httpx2
        from mcp import MCPError

        try:
            result = await client.call_tool(tool.name, arguments)
        except MCPError as problem:
            if problem.code == CONNECTION_CLOSED:
                raise ToolsLostError(f"it has ended during the call of {tool.name}") from problem
            if problem.code == REQUEST_TIMEOUT:
                raise TimeoutError from problem
            raise ToolCallError(problem.message) from problem
        except httpx2.TransportError as problem:
            raise ToolsLostError(f"it cannot be reached: {problem}") from problem
        return _said(result)

    schema: Any = {
        "type": "function",
        "function": {
            "name": prefix + tool.name,
            "description": tool.description or tool.title or tool.name,
            "parameters": tool.input_schema,
        },
    }
    return BoundTool(prefix + tool.name, schema, run)


def _said(result: CallToolResult) -> Any:
    """What a result is: its parts, or its data if it has none. Raises ``ToolCallError`` if it is an error."""
    parts = [_part(part) for part in result.content]
    if result.is_error:
        raise ToolCallError("\n".join(part.get("text", f"[{part['type']}]") for part in parts) or "it failed")
    if not parts:
        return "" if result.structured_content is None else result.structured_content
    return parts


def _part(part: Any) -> dict[str, str]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "resource_link":
        return {"type": "text", "text": f"{part.name}: {part.uri}"}
    if part.type == "resource" and hasattr(part.resource, "text"):
        return {"type": "text", "text": part.resource.text}
    return {"type": part.type}
