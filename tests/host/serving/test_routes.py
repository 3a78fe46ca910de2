"""A walk over every route of the real server: who has no key gets nothing but the public list."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import re
import threading
import time
from urllib.parse import unquote

import httpx
import pytest
import uvicorn

from grpo_host.plugins import Registry
from grpo_host.serving.app import create_app
from grpo_host.serving.features import all_endpoints, all_websocket_routes
from grpo_host.serving.http.dispatch import EndpointApp, SocketApp
from grpo_host.serving.http.endpoint import PUBLIC
from grpo_host.serving.http.protocol import BoundedProtocol
from grpo_host.serving.settings import ServerSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X-ANY")


@pytest.fixture
def app(tmp_path):
    """The whole server, every feature's endpoints included; a key exists."""
    settings = ServerSettings.of(state=tmp_path, failed_rate="1000000/minute")
    return create_app(
        settings, Registry(), **dict.fromkeys(("telemetry", "models", "chat", "jobs", "viewed"))
    )


def filled(path):
    return re.sub(r"{[^}]*}", "x1", path)


def test_every_route_goes_through_the_dispatch_that_asks_for_the_key(app):
    for route in app.routes:
        assert isinstance(route.app, (EndpointApp, SocketApp)), route
    assert {route.path for route in app.routes} == {e.path for e in all_endpoints()} | {
        s.path for s in all_websocket_routes()
    }


def test_only_the_public_list_has_no_scope():
    assert {(e.method, e.path) for e in all_endpoints() if e.scope is None} <= PUBLIC


def test_no_two_endpoints_share_a_method_and_path():
    places = [(e.method, e.path) for e in all_endpoints()]
    assert len(places) == len(set(places))


def variants(path):
    """Ways to write ``path`` that a lax server or proxy may take for it, and ways around a prefix."""
    head, _, tail = path.rpartition("/")
    return {
        path,
        path + "/",
        "/" + path,
        "/" + path.replace("/", "//"),
        path.upper(),
        path.title(),
        f"{head}/%2e/{tail}",
        f"{head}/./{tail}",
        f"/health/..{path}",
        f"/health/%2e%2e{path}",
        f"/health%2f..{path}",
        f"/health;{path}",
        f"{path};/health",
        f"{path}%3f/health",
        f"{path}?/health",
        f"{path}#/health",
        f"{path}%00/health",
        f"{path}%20",
        f"{path}%0d%0a",
        f"{path}.json",
        path.replace("/", "%2f"),
        path.replace("/", "\\"),
        "".join(f"%{ord(c):02x}" if c != "/" else c for c in path),
        "http://127.0.0.1/health" + path,
    }


async def test_nothing_but_the_public_list_answers_without_a_key(app):
    handled = []

    async with app.router.lifespan_context(app):
        await app.state.services.keys.create("someone", ["chat"])
        app.state.services.keys.forget()
        paths = {filled(route.path) for route in app.routes} | {
            "/",
            "/nothing",
            "/docs.html",
            "/static/x",
        }
        for method, path in itertools.product(METHODS, paths):
            for variant in variants(path):
                status = await ask(app, method, variant)
                meant = unquote(variant.split("?")[0])
                if (("GET" if method == "HEAD" else method), meant) in PUBLIC:
                    assert status in (200, 307, 503), (method, variant, status)
                else:
                    assert status in (401, 404), (method, variant, status)
                handled.append(status)
    assert len(handled) > 1000


async def ask(app, method, target):
    """The status of a request whose target is sent as it is: clients would tidy it up."""
    raw, _, query = target.partition("?")
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        "state": {},
    }

    heard = []

    async def receive():
        if heard:  # as a client that waits for its answer
            await asyncio.Event().wait()
        heard.append(True)
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "localhost/health?",
        "127.0.0.1/health?x=",
        "127.0.0.1:80/health",
        "",
        "[::1]evil.example",
        "localhost\tx",
    ],
)
async def test_the_host_header_neither_opens_nor_leads_anywhere(app, host):
    async with app.router.lifespan_context(app):
        await app.state.services.keys.create("someone", ["chat"])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.get("/api/conversations", headers={"host": host})
            assert answer.status_code in (400, 401)
            assert "location" not in answer.headers
            assert not host or host not in answer.text


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ([], "localhost:8001", 200),
        ([], "[::1]:8001", 200),
        ([], "LOCALHOST", 200),
        ([], "agent.example", 400),
        (["agent.example"], "agent.example", 200),
        (["agent.example"], "www.agent.example", 400),
        (["*.agent.example"], "www.agent.example", 200),
        (["*.agent.example"], "agent.example", 400),
        (["*.agent.example"], "xagent.example", 400),
        (["*"], "whatever", 200),
    ],
)
async def test_which_names_the_server_goes_by(serving, allowed, host, status):
    async with serving(allowed_hosts=allowed) as server:
        assert (await server.client.get("/docs", headers={"host": host})).status_code == status
        assert (await server.client.get("/health/ready", headers={"host": host})).status_code == 200


async def test_a_connection_from_elsewhere_may_use_any_name_unless_told_otherwise(serving):
    """It needs a key whatever its name; the guide's server does not know where uvicorn listens."""

    async def work(**options):
        async with serving(**options) as server:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.1") as client:
                return (await client.get("/docs", headers={"host": "agent.example"})).status_code

    assert await work() == 200
    assert await work(allowed_hosts=["other.example"]) == 400


def test_over_a_real_socket_it_is_the_same(app):
    """uvicorn parses the request line itself: what its parser lets through is refused as well."""
    config = uvicorn.Config(app, http=BoundedProtocol, port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        services = app.state.services
        asyncio.run(_make_key(services.settings))
        services.keys.forget()
        for path in ("/api/conversations", "/v1/chat/completions", "/metrics"):
            for method, variant in itertools.product(("GET", "POST", "OPTIONS"), variants(path)):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection._validate_path = lambda _: None
                connection.putrequest(method, variant, skip_host=True)
                connection.putheader("Host", "127.0.0.1")
                connection.putheader("Content-Length", "0")
                connection.endheaders()
                status = connection.getresponse().status
                connection.close()
                assert status in (400, 401), (method, variant, status)
    finally:
        server.should_exit = True
        thread.join(20)


async def _make_key(settings):
    from grpo_host.serving.access.keys import KeyStore
    from grpo_host.storage import database

    engine = database.make_engine(settings.database())
    await KeyStore(engine).create("someone", ["chat"])
    await engine.dispose()
