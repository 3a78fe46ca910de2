"""Readiness knows what is outside the process: the database, and the server that the model is on."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from grpo_host.serving.http import readiness
from grpo_host.serving.http.readiness import Outside, listens
from grpo_host.serving.services import Part


@pytest.fixture
def at_once(monkeypatch):
    """Every question is a new look."""
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.0)


async def ready(client):
    answer = await client.get("/health/ready")
    return answer.status_code, answer.json()["status"]


async def test_a_server_without_its_database_is_not_ready(serving, at_once, tmp_path):
    async def work():
        async with serving() as server:
            assert await ready(server.client) == (200, "ready")
            await server.services.database.dispose()
            for file in (tmp_path / "state").iterdir():
                file.unlink()
            (tmp_path / "state").rmdir()
            told = await ready(server.client)
            await asyncio.sleep(0.1)  # aiosqlite's thread says that it could not open the file
            return told

    assert await work() == (503, "the database does not answer")


async def test_a_server_is_ready_again_with_its_postgresql(serving, at_once, postgres, postgres_url):
    async with serving(database_url=postgres_url) as server:
        first = await ready(server.client)
        postgres.stop()
        try:
            dead = await ready(server.client)
            alive = (await server.client.get("/health/live")).status_code
        finally:
            postgres.restart()
        # A connection from before is found dead once.
        await ready(server.client)
        again = await ready(server.client)
    assert first == again == (200, "ready")
    assert dead == (503, "the database does not answer")
    assert alive == 200


@asynccontextmanager
async def listener():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_a_server_whose_model_is_on_a_dead_server_is_not_ready(tmp_path, at_once):
    import httpx

    from grpo_host.config.load import load_config
    from grpo_host.plugins import load_plugins
    from grpo_host.serving.app import create_app
    from grpo_host.serving.settings import ServerSettings

    async with listener() as port:
        path = tmp_path / "agent.yaml"
        path.write_text(
            "name: desk\nmodel: tiny\nbackend: {name: openai, options: {base_url: "
            f"'http://127.0.0.1:{port}/v1'}}}}\nenvironment: support_desk\nrewards: [length]\n"
            f"output: {tmp_path / 'runs'}\n"
        )
        loaded = load_config(path)
        app = create_app(ServerSettings.of(loaded, state=tmp_path), load_plugins(), loaded=loaded)
        context = app.router.lifespan_context(app)
        await context.__aenter__()
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        while (await ready(client)) == (503, "loading the model"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        first = await ready(client)
    dead = await ready(client)
    await client.aclose()
    await context.__aexit__(None, None, None)
    assert first == (200, "ready")
    assert dead == (503, "the model's server cannot be reached")


async def test_a_part_tells_what_it_cannot_reach(serving, at_once):
    class Alone(Part):
        async def unreachable(self):
            return "nobody there"

    async def work():
        async with serving(jobs=Alone()) as server:
            return await ready(server.client)

    assert await work() == (503, "nobody there")


async def test_however_many_ask_there_is_one_look(monkeypatch):
    looks = []

    async def look():
        looks.append(1)
        await asyncio.sleep(0.01)
        return "gone"

    async def work():
        known = Outside(look)
        found = await asyncio.gather(*(known.failing() for _ in range(50)))
        return {*found, await known.failing()}

    assert await work() == {"gone"}
    assert len(looks) == 1


async def test_a_look_that_takes_long_keeps_nobody(monkeypatch, at_once):
    release = asyncio.Event()
    monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 0.01)

    async def look():
        if looked:
            await release.wait()
        looked.append(1)

    looked = []

    async def work():
        known = Outside(look)
        first = await known.failing()
        second = await known.failing()  # the look is under way: the last one counts
        await known.close()
        return first, second

    assert await work() == (None, None)
    assert len(looked) == 1


async def test_a_look_without_an_end_is_a_failure(monkeypatch):
    monkeypatch.setattr(readiness, "LONGEST_LOOK_SECONDS", 0.01)

    async def look():
        await asyncio.sleep(3600)

    assert await Outside(look).failing() == "the database or the model does not answer"


@pytest.mark.parametrize("direct", [False, True], ids=["proxy", "no_proxy"])
async def test_a_server_behind_a_proxy_is_looked_for_there(direct, monkeypatch):
    async def work():
        async with listener() as port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", "127.0.0.1" if direct else "")
            return await listens(f"http://127.0.0.1:{free_port()}/v1")

    assert await work() is not direct
