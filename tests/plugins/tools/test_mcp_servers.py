"""Tools of MCP servers: a small one of our own over stdio and HTTP, and a third party's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from grpo_sdk import ConfigError, tool_call
from grpo_sdk.bundles import EpisodeTools, LiveBundle, bundle_schemas
from grpo_sdk.errors import MissingExtraError, PluginError
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLimits

pytest.importorskip(
    "mcp.client.client", reason="needs the extra mcp: pip install 'grpo-agent-framework[mcp]'"
)

import uvicorn

from grpo_tools.mcp_servers import _chosen, mcp_tools

SERVER = Path(__file__).parent / "small_mcp_server.py"


def used(options: dict, *names: str) -> LiveBundle:
    """A server whose tools are known, which saves the start that would tell them."""
    schemas = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]
    return LiveBundle('tool "mcp"', mcp_tools(**options), schemas)


async def said(tools: LiveBundle, name: str, arguments: dict | None = None) -> tuple[str, str | None]:
    """What the model is answered, and why the episode is failed, if it is."""
    call = tool_call(name, json.dumps(arguments or {}), "call_1")
    async with EpisodeTools() as episode:
        [(message, _)] = await Toolbox(tools.tools, ToolLimits(seconds=60)).run([call])
    return message["content"], episode.problem


@pytest.fixture(scope="module")
def over_stdio():
    """What a server that is started answers, by the call; one server for all, and one more after it died."""
    os.environ["GRPO_SECRET_OF_OURS"] = "secret"

    asked = {"add": {"a": 1, "b": 2}, "fail": {}, "picture": {}, "captioned": {}, "variables": {}, "die": {}}

    async def main():
        options = {"command": [sys.executable, str(SERVER)], "env": {"SHOP": "north"}}
        tools = used(options, *asked)
        answers = {name: await said(tools, name, arguments) for name, arguments in asked.items()}
        answers["again"] = await said(tools, "add", {"a": 3, "b": 4})
        await tools.close()
        return answers

    try:
        return asyncio.run(main())
    finally:
        del os.environ["GRPO_SECRET_OF_OURS"]


def test_a_result_is_its_text(over_stdio):
    assert over_stdio["add"] == ("3", None)


def test_an_error_of_a_tool_is_the_models_to_read(over_stdio):
    text, problem = over_stdio["fail"]
    assert (text.startswith("Error: "), "no order A1" in text, problem) == (True, True, None)


def test_an_image_alone_is_an_error_and_beside_a_text_it_is_left_out(over_stdio):
    assert "content of the type image, and messages hold text only" in over_stdio["picture"][0]
    assert over_stdio["captioned"] == ("a cat\n[image left out]", None)


def test_a_server_sees_the_variables_that_it_is_given_and_none_of_ours(over_stdio):
    variables = json.loads(over_stdio["variables"][0])
    assert variables["SHOP"] == "north"
    assert "GRPO_SECRET_OF_OURS" not in variables


def test_a_server_that_dies_is_named_and_started_again(over_stdio):
    text, problem = over_stdio["die"]
    assert "it has ended during the call of die" in text
    assert problem.startswith(f'tool "mcp" (the MCP server {sys.executable} ')
    assert over_stdio["again"] == ("7", None)


def test_a_server_over_http_is_described_called_and_missed_when_it_is_gone():
    sys.path.insert(0, str(SERVER.parent))
    try:
        from small_mcp_server import server
    finally:
        sys.path.remove(str(SERVER.parent))
    config = uvicorn.Config(
        server.streamable_http_app(), port=0, log_level="error", timeout_graceful_shutdown=1
    )
    http = uvicorn.Server(config)
    thread = threading.Thread(target=http.run, daemon=True)
    thread.start()
    while not http.started:
        time.sleep(0.01)
    port = http.servers[0].sockets[0].getsockname()[1]

    async def main():
        options = {
            "url": f"http://user:password@127.0.0.1:{port}/mcp?key=secret",
            "include": ["add", "die"],
            "exclude": ["die"],
            "prefix": "small_",
        }
        schemas = await bundle_schemas("mcp", mcp_tools(**options))
        tools = used(options, "small_add")
        answers = [await said(tools, "small_add", {"a": 1, "b": 2})]
        http.should_exit = True
        await asyncio.to_thread(thread.join)
        answers.append(await said(tools, "small_add", {"a": 1, "b": 2}))
        await tools.close()
        return schemas, answers

    [schema], [first, (_, problem)] = asyncio.run(main())
    assert (schema["function"]["name"], schema["function"]["description"]) == (
        "small_add",
        "Add two numbers.",
    )
    assert schema["function"]["parameters"]["properties"]["a"]["type"] == "integer"
    assert first == ("3", None)
    assert problem.startswith(f'tool "mcp" (the MCP server http://127.0.0.1:{port}/mcp) ')


async def test_a_third_partys_server_is_used_as_it_is():
    pytest.importorskip("mcp_server_time", reason="needs mcp-server-time, which the extra dev brings")

    async def main():
        command = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"]
        tools = used({"command": command}, "convert_time")
        asked = {"source_timezone": "Europe/Berlin", "time": "14:00", "target_timezone": "Asia/Tokyo"}
        text, _ = await said(tools, "convert_time", asked)
        await tools.close()
        return text

    assert "Asia/Tokyo" in await main()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give command .* or else url"),
        ({"command": ["a"], "url": "http://b"}, "give command .* or else url"),
        ({"url": "http://b", "env": {"A": "1"}}, "env is for a command, and a url is given; leave env out"),
        ({"command": ["a"], "headers": {"A": "1"}}, "headers are for a url, and a command is given"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        mcp_tools(**options)


async def test_a_command_that_is_not_there_is_named_without_its_options():
    bundle = mcp_tools(command=["/no/such/program", "--key", "secret"])
    with pytest.raises(PluginError, match="No such file") as raised:
        await bundle_schemas('tool "mcp"', bundle)
    assert str(raised.value).startswith('tool "mcp" (the MCP server /no/such/program) could not be opened')


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_tool_that_the_server_has_not_is_an_error_that_says_which_it_has(option):
    chosen = {"include": None, "exclude": ()} | {option: ["ad"]}
    with pytest.raises(ConfigError, match=r'has no tool "ad"\. Did you mean "add"\? It has: add, die'):
        _chosen("the MCP server small", ["add", "die"], **chosen)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.client.client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'grpo-agent-framework\[mcp\]'"):
        mcp_tools(command=["a"])
