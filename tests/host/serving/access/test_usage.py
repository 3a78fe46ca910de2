"""What each owner has used: counted as it is answered, a metric, and kept by days."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from click.testing import CliRunner

from grpo_host.agents.tracing import SERVED, Served
from grpo_host.cli.keys import command
from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.access.usage import Usage, Used, used
from grpo_host.serving.app import create_app
from grpo_host.serving.http.observability import Telemetry
from grpo_host.serving.settings import ServerSettings
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate
from grpo_host.telemetry.server import ServerTelemetry
from grpo_sdk.backend import Backend, Capability, ChatReply
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant


class Counting(Backend):
    """Says the same to all, and what that took."""

    capabilities = frozenset({Capability.CHAT, Capability.STREAMING, Capability.TOOLS})

    async def chat(self, messages, sampling, tools=()):
        return ChatReply(assistant("Good morning!"), prompt_tokens=7, completion_tokens=3)

    async def stream(self, messages, sampling, tools=()):
        yield "Good morning!"
        yield await self.chat(messages, sampling, tools)


class Backends:
    @hookimpl
    def grpo_backends(self):
        return {"counting": Counting}


@pytest.fixture
def served(tmp_path, telemetry):
    """``served(work)``: what ``work(client, headers by owner)`` gives, on a whole server that is traced."""

    def run(work):
        path = tmp_path / "agent.yaml"
        path.write_text(
            "name: desk\nmodel: tiny\nbackend: counting\n"
            f"environment: support_desk\nrewards: [length]\noutput: {tmp_path / 'runs'}\n"
        )
        loaded = load_config(path)
        settings = ServerSettings.of(loaded, state=tmp_path / "state")
        registry = load_plugins()
        registry.register(Backends(), "test-backends")
        part = Telemetry(ServerTelemetry(**telemetry.providers))
        app = create_app(settings, registry, loaded=loaded, telemetry=part)
        services = app.state.services
        part.usage = services.usage

        async def whole():
            async with app.router.lifespan_context(app):
                headers = {}
                for owner in ("shop", "lab"):
                    _, token = await services.keys.create(owner, list(Scope), owner=owner)
                    headers[owner] = {"authorization": f"Bearer {token}"}
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                    return await work(client, headers)

        return asyncio.run(whole())

    return run


ASKED = {"model": "desk", "messages": [{"role": "user", "content": "Hello"}]}


async def ask_thrice(client, headers):
    """The usage that /v1 told, and the answer's id."""
    whole = (await client.post("/v1/chat/completions", json=ASKED, headers=headers["shop"])).json()
    streamed = {**ASKED, "stream": True}
    await client.post("/v1/chat/completions", json=streamed, headers=headers["shop"])
    await client.post("/api/chat", json={"message": "Hello"}, headers=headers["lab"])
    return whole


def test_the_command_tells_what_each_owner_has_used(served, tmp_path):
    told = served(ask_thrice)["usage"]
    url = f"sqlite+aiosqlite:///{tmp_path / 'state' / 'server.db'}"
    printed = CliRunner().invoke(command, ["usage", "--json", "--database", url])
    assert printed.exit_code == 0, printed.output
    found = {row["owner"]: row for row in json.loads(printed.stdout)}
    assert (found["shop"]["requests"], found["lab"]["requests"]) == (2, 1)
    assert found["shop"]["input_tokens"] == 2 * told["prompt_tokens"] == 14
    assert found["shop"]["output_tokens"] == 2 * told["completion_tokens"] == 6
    assert found["lab"]["output_tokens"] == 3
    rows = CliRunner().invoke(command, ["usage", "--database", url]).stdout.splitlines()
    assert rows[0].split() == ["owner", "requests", "input", "tokens", "output", "tokens"]
    assert {row.split()[0] for row in rows[1:]} == {"shop", "lab"}


def test_the_command_says_where_nobody_has_asked(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"
    printed = CliRunner().invoke(command, ["usage", "--days", "7", "--database", url])
    assert printed.stdout == "Nobody has asked for anything in the last 7 days.\n"


def test_tokens_and_requests_by_owner_are_metrics(served):
    async def work(client, headers):
        whole = await ask_thrice(client, headers)
        return whole["usage"], (await client.get("/metrics", headers=headers["lab"])).text

    told, text = served(work)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("grpo_owner_"))
    assert float(lines['grpo_owner_requests_total{grpo_owner="shop"}']) == 2
    written = 'grpo_owner_tokens_total{gen_ai_token_type="output",grpo_owner="shop"}'
    assert float(lines[written]) == 2 * told["completion_tokens"]


def test_spans_tell_the_agent_the_owner_and_the_answer_s_model_and_id(served, telemetry):
    whole = served(ask_thrice)
    chat = next(span for span in telemetry.spans if span.name.startswith("chat ")).attributes
    assert (chat["gen_ai.agent.name"], chat["grpo.owner"]) == ("desk", "shop")
    assert chat["gen_ai.response.id"] == whole["id"]
    assert chat["gen_ai.response.model"] == chat["gen_ai.request.model"]
    invoked = telemetry.span("invoke_agent desk").attributes
    assert (invoked["gen_ai.agent.name"], invoked["grpo.owner"]) == ("desk", "lab")
    request = telemetry.span("POST /api/chat").attributes
    assert request["grpo.owner"] == "lab"


@pytest.mark.parametrize("stream", [False, True])
def test_spans_of_responses_tell_the_response_s_id(served, telemetry, stream):
    async def work(client, headers):
        asked = {"model": "desk", "input": "Hello", "stream": stream}
        return (await client.post("/v1/responses", json=asked, headers=headers["shop"])).text

    told = served(work)
    chat = next(span for span in telemetry.spans if span.name.startswith("chat ")).attributes
    assert chat["gen_ai.response.id"].startswith("resp_")
    assert f'"id":"{chat["gen_ai.response.id"]}"' in told


async def test_spans_of_a_trained_run_name_it_and_its_adapter(telemetry):
    from grpo_host.agents.agent import Agent
    from grpo_host.telemetry.agents import AgentInstruments
    from grpo_sdk.messages import user
    from grpo_sdk.testing import ScriptedBackend

    instruments = AgentInstruments(**telemetry.providers)

    SERVED.set(Served("desk", "shop", "20261128-030507", "/runs/desk/20261128-030507/adapter"))
    agent = Agent(ScriptedBackend(script=lambda *_: "Hello"), instruments=instruments)
    await agent.open().act([user("Hi")])
    for span in telemetry.spans:
        assert span.attributes["grpo.run"] == "20261128-030507"
        assert span.attributes["grpo.adapter"] == "/runs/desk/20261128-030507/adapter"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"
    return request.getfixturevalue("postgres_url")


async def test_two_processes_add_up_what_they_have_counted(url):
    async def work():
        engine = database.make_engine(url)
        await migrate(engine)
        SERVED.set(Served("desk", "shop"))
        for _ in range(2):
            usage = Usage(engine)
            usage.start()
            for _ in range(3):
                usage.request("shop")
                usage.tokens(10, 2)
            await usage.close()
        found = await used(engine, 1)
        await engine.dispose()
        return found

    assert await work() == {"shop": Used(6, 60, 12)}


async def test_what_could_not_be_written_is_written_the_next_time(tmp_path, monkeypatch, caplog):
    async def work():
        engine = database.make_engine(f"sqlite+aiosqlite:///{tmp_path / 'server.db'}")
        await migrate(engine)
        usage = Usage(engine)
        usage.request("shop")
        with monkeypatch.context() as broken:
            broken.setattr("grpo_host.serving.access.usage.writing", _no_database)
            await usage._write()
        assert "was not written: OSError" in caplog.text
        usage.request("shop")
        await usage._write()
        await usage._write()  # nothing twice
        found = await used(engine, 1)
        await engine.dispose()
        return found

    assert (await work())["shop"].requests == 2


def _no_database(_):
    raise OSError("no route to host")
