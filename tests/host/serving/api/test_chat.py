"""Conversations over HTTP and WebSocket with an agent whose model is scripted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.access.keys import CACHE_SECONDS
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend


def answer(messages, tools):
    said = messages[-1]["content"]
    if said == "instructions?":
        return messages[0]["content"]
    if said == "how many?":
        return f"{sum(message['role'] == 'user' for message in messages)} messages"
    if said.startswith("calculate "):
        return assistant("", [tool_call("calculator", json.dumps({"expression": said.split()[1]}), "call_1")])
    if messages[-1]["role"] == "tool":
        return f"It is {said}."
    return f"You said: {said}"


class TalkingBackend(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=answer)

    async def chat(self, messages, sampling, tools=()):
        if messages[-1]["content"] == "slow":
            await asyncio.sleep(0.2)
        if messages[-1]["content"] == "crash":
            raise RuntimeError("segmentation fault")
        return await super().chat(messages, sampling, tools)


class Backends:
    @hookimpl
    def grpo_backends(self):
        return {"talking": TalkingBackend}


@pytest.fixture
def make(tmp_path):
    def make(*, strategy_options=False, **options):
        strategy = (
            "strategy: {name: customer_service, options: {company: ACME}}, " if strategy_options else ""
        )
        path = tmp_path / "agent.yaml"
        path.write_text(
            "name: desk\nmodel: {name: tiny}\nbackend: talking\n"
            f"agent: {{{strategy}system_prompt: Be kind., tools: [calculator]}}\n"
            f"environment: support_desk\nrewards: [length]\noutput: {tmp_path / 'runs'}\n"
        )
        registry = load_plugins()
        registry.register(Backends(), "test-backends")
        loaded = load_config(path)
        settings = ServerSettings.of(loaded, state=tmp_path / "state", **options)
        return create_app(settings, registry, loaded=loaded)

    return make


@pytest.fixture
def serve(make):
    @asynccontextmanager
    async def start(**options):
        app = make(**options)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                client.services = app.state.services
                yield client

    return start


async def say(client, message, **fields):
    return await client.post(
        "/api/chat", json={"message": message, **fields}, headers=fields.pop("headers", None)
    )


async def test_a_conversation_goes_on_by_its_id(serve):
    async def scenario():
        async with serve() as client:
            first = (await say(client, "hello")).json()
            second = (await say(client, "how many?", conversation_id=first["conversation_id"])).json()
            return first["response"], second["response"]

    assert await scenario() == ("You said: hello", "2 messages")


async def test_the_guides_request_is_answered_with_its_strategy_and_context(serve):
    async with serve() as client:
        body = {"strategy": "customer_service", "context": {"priority": "high"}}
        reply = (await say(client, "instructions?", **body)).json()
    assert reply["strategy"] == "customer_service"
    assert "priority: high" in reply["response"]
    assert "Be kind." in reply["response"]


async def test_the_agents_tools_are_used(serve):
    async def scenario():
        async with serve() as client:
            return (await say(client, "calculate 6*7")).json()["response"]

    assert await scenario() == "It is 42."


async def test_a_stream_tells_pieces_and_then_the_whole(serve):
    async with serve() as client:
        text = (await say(client, "one two three", stream=True)).text
        *pieces, last = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert len(pieces) > 1
    assert "".join(piece["delta"] for piece in pieces) == last["response"]
    assert last["response"].strip() == "You said: one two three"
    assert last["finish_reason"] == "stop"


async def test_conversations_are_listed_read_and_forgotten(serve):
    async def scenario():
        async with serve() as client:
            made = (await say(client, "hello", user_id="ann")).json()["conversation_id"]
            await say(client, "hi", user_id="bob")
            listed = (await client.get("/api/conversations", params={"user_id": "ann"})).json()
            assert [item["conversation_id"] for item in listed["conversations"]] == [made]
            assert listed["conversations"][0]["begins"] == "hello"
            read = (await client.get(f"/api/conversations/{made}")).json()
            assert [message["content"] for message in read["history"]] == ["hello", "You said: hello"]
            assert (await client.delete(f"/api/conversations/{made}")).status_code == 204
            return (await client.get(f"/api/conversations/{made}")).status_code

    assert await scenario() == 404


async def test_a_conversation_is_nobody_elses(serve):
    async def scenario():
        async with serve() as client:
            keys = [(await client.services.keys.create(n, [Scope.CHAT]))[1] for n in ("ann", "eve")]
            client.services.keys.forget()
            ann, eve = ({"authorization": f"Bearer {key}"} for key in keys)
            made = (await client.post("/api/chat", json={"message": "secret"}, headers=ann)).json()
            path = f"/api/conversations/{made['conversation_id']}"
            body = {"message": "what was it?", "conversation_id": made["conversation_id"]}
            answers = [
                await client.get(path, headers=eve),
                await client.delete(path, headers=eve),
                await client.post("/api/chat", json=body, headers=eve),
            ]
            assert (await client.get("/api/conversations", headers=eve)).json()["conversations"] == []
            assert (await client.get(path, headers=ann)).status_code == 200
            return [item.status_code for item in answers]

    assert await scenario() == [404, 404, 404]


async def test_a_conversation_goes_on_with_the_key_that_replaces_its_own(serve):
    async def scenario():
        async with serve() as client:
            keys = client.services.keys
            record, token = await keys.create("web", [Scope.CHAT], owner="shop")
            keys.forget()
            old = {"authorization": f"Bearer {token}"}
            made = (await client.post("/api/chat", json={"message": "hello"}, headers=old)).json()
            _, token = await keys.replace(record.id)
            new = {"authorization": f"Bearer {token}"}
            body = {"message": "how many?", "conversation_id": made["conversation_id"]}
            refused = await client.post("/api/chat", json=body, headers=old)
            assert (refused.status_code, refused.json()["error"]["message"]) == (401, "this key was revoked")
            return (await client.post("/api/chat", json=body, headers=new)).json()["response"]

    assert await scenario() == "2 messages"


async def test_an_unknown_strategy_is_refused_with_those_that_there_are(serve):
    async with serve() as client:
        reply = await say(client, "hi", strategy="custmer_service")
    assert reply.status_code == 400
    assert 'Did you mean "customer_service"?' in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        r'{"message": "hi", "user_id": "a\u0000b"}',
        r'{"message": "hi", "conversation_id": "\u0000"}',
        '{"message": "hi", "context": {"a": NaN}}',
        '{"message": "hi", "context": {"a": [1e999]}}',
    ],
)
async def test_what_no_database_keeps_is_refused(serve, body):
    """PostgreSQL knows neither NUL nor numbers without end."""

    async def scenario():
        async with serve() as client:
            refused = await client.post(
                "/api/chat", content=body, headers={"content-type": "application/json"}
            )
            listed = await client.get("/api/conversations", params={"user_id": "\0"})
            read = await client.get("/api/conversations/%00")
            return refused.status_code, listed.status_code, read.status_code

    assert await scenario() == (422, 422, 404)


async def test_the_context_of_a_conversation_is_bounded(serve):
    async with serve() as client:
        taken = await say(client, "hi", context={"a": "x" * 16_000})
        refused = await say(client, "hi", context={"a": "x" * 17_000})
        taken, refused = [answer.json()["error"] for answer in (taken, refused)]
    assert taken["code"] == "context_length_exceeded"  # of the model
    assert refused["message"].startswith("context: give at most 16384 bytes of JSON")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [None, "nothing of this name"])
async def test_a_conversation_whose_first_message_got_no_answer_is_not_kept(serve, stream, model):
    async def scenario():
        async with serve() as client:
            failed = await say(client, "crash", stream=stream, model=model)
            return failed.status_code, (await client.get("/api/conversations")).json()["conversations"]

    assert await scenario() == (404 if model else 503, [])


@pytest.mark.parametrize("seconds", [0.002, 0.004, 0.006, 0.01, 0.1])
async def test_a_client_that_leaves_before_the_first_answer_leaves_no_conversation(serve, seconds):
    async def scenario():
        async with serve() as client:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await say(client, "slow")
            return (await client.get("/api/conversations")).json()["conversations"]

    assert await scenario() == []


async def test_a_later_message_that_fails_takes_nothing_of_the_conversation(serve):
    async def scenario():
        async with serve() as client:
            made = (await say(client, "hello")).json()["conversation_id"]
            assert (await say(client, "crash", conversation_id=made)).status_code == 503
            read = (await client.get(f"/api/conversations/{made}")).json()
            return [message["content"] for message in read["history"]]

    assert await scenario() == ["hello", "You said: hello"]


async def test_messages_of_one_conversation_are_answered_in_their_order(serve):
    async def scenario():
        async with serve() as client:
            made = (await say(client, "hello")).json()["conversation_id"]
            texts = ["slow", *(f"message {n}" for n in range(5))]
            await asyncio.gather(*(say(client, text, conversation_id=made) for text in texts))
            history = (await client.get(f"/api/conversations/{made}")).json()["history"]
            roles = [message["role"] for message in history]
            assert roles == ["user", "assistant"] * 7
            return [message["content"] for message in history if message["role"] == "user"]

    assert sorted(await scenario()) == sorted(["hello", "slow", *(f"message {n}" for n in range(5))])


@pytest.mark.slow
async def test_many_conversations_at_once_do_not_mix(serve):
    async def scenario():
        async with serve(max_queue=400, rate=None) as client:

            async def talk(number):
                made = (await say(client, f"I am {number}")).json()
                return (await say(client, f"still {number}", conversation_id=made["conversation_id"])).json()

            replies = await asyncio.gather(*(talk(number) for number in range(100)))
            return [reply["response"] for reply in replies]

    assert await scenario() == [f"You said: still {number}" for number in range(100)]


def chat(message, **data):
    return {"type": "chat", "data": {"message": message, **data}}


class Socket:
    """A WebSocket of a real server, speaking JSON."""

    def __init__(self, connection):
        self._connection = connection
        self.send = connection.send

    def send_json(self, message):
        self.send(json.dumps(message))

    def receive_json(self):
        return json.loads(self._connection.recv(timeout=20))


@contextmanager
def listening(app):
    """The port of a uvicorn server in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def server(make):
    with listening(make(rate=None)) as port:
        yield port


@pytest.fixture
def socket(server):
    with connect(f"ws://127.0.0.1:{server}/ws") as connection:
        yield Socket(connection)


def test_the_guides_message_is_answered_over_the_websocket(socket):
    socket.send_json(chat("Hello, I need help", strategy="customer_service"))
    reply = socket.receive_json()
    assert reply["type"] == "chat_response"
    assert reply["data"]["response"] == "You said: Hello, I need help"


def test_deltas_come_before_the_answer_when_asked_for(socket):
    socket.send_json({**chat("a b c", stream=True), "id": "x"})
    replies = [socket.receive_json()]
    while replies[-1]["type"] == "chat_delta":
        replies.append(socket.receive_json())
    assert {reply["id"] for reply in replies} == {"x"}
    assert "".join(r["data"]["delta"] for r in replies[:-1]) == replies[-1]["data"]["response"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_over_the_websocket_tells_the_tools_that_were_called(socket, stream):
    socket.send_json(chat("calculate 6*7", stream=stream))
    while (reply := socket.receive_json())["type"] == "chat_delta":
        pass
    assert reply["data"]["response"] == "It is 42."
    (run,) = reply["data"]["tool_runs"]
    assert (run["name"], run["arguments"], run["result"]) == ("calculator", '{"expression": "6*7"}', "42")


async def test_a_client_that_does_not_read_its_answer_ends_its_socket(make, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 0.2)

    async def scenario():
        app = make(max_concurrency=1, max_queue=0)
        async with app.router.lifespan_context(app):
            told = [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "text": json.dumps(chat("hi"))},
            ]

            async def receive():
                return told.pop(0) if told else await asyncio.sleep(3600)

            async def send(message):
                if message["type"] == "websocket.send":
                    await asyncio.sleep(3600)

            scope = {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "path": "/ws",
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1")],
                "client": ("127.0.0.1", 5),
                "subprotocols": [],
            }
            await asyncio.wait_for(app(scope, receive, send), 5)
            return app.state.services.admission.under_way

    assert await scenario() == 0


def test_a_quick_conversation_does_not_wait_for_a_slow_one(socket):
    socket.send_json({**chat("slow"), "id": 1})
    socket.send_json({**chat("quick"), "id": 2})
    assert [socket.receive_json()["id"] for _ in range(2)] == [2, 1]


def test_an_answer_can_be_cancelled(socket):
    socket.send_json({**chat("slow"), "id": 1})
    socket.send_json({"type": "cancel", "id": 1})
    assert socket.receive_json() == {
        "type": "error",
        "data": {"code": "cancelled", "message": "the answer was cancelled"},
        "id": 1,
    }


def test_a_failure_is_a_message_and_the_socket_goes_on(socket):
    socket.send_json(chat("crash"))
    reply = socket.receive_json()
    assert (reply["type"], reply["data"]["code"]) == ("error", "model_unavailable")
    assert "segmentation" not in str(reply)
    socket.send_json(chat("well again"))
    assert socket.receive_json()["data"]["response"] == "You said: well again"


def test_a_message_over_the_socket_must_have_the_documented_types(socket):
    socket.send_json({"type": "chat", "data": {"message": "hi", "stream": 1}})
    error = socket.receive_json()["data"]
    assert (error["code"], error["message"]) == ("invalid_request", "stream: give true or false")


def test_messages_over_the_socket_count_also_where_they_are_no_good(make):
    with (
        listening(make(rate="5/minute")) as port,
        connect(f"ws://127.0.0.1:{port}/ws") as connection,
    ):
        socket = Socket(connection)
        for message in ("{", '{"type": "ping"}', '{"type": "chat", "data": {}}') * 3:
            socket.send(message)
        replies = [socket.receive_json() for _ in range(9)]
    assert [reply.get("data", {}).get("code") for reply in replies[5:]] == ["rate_limited"] * 4


def test_more_messages_than_may_be_answered_at_once_are_refused(socket):
    for number in range(12):
        socket.send_json({**chat("slow"), "id": number})
    replies = [socket.receive_json() for _ in range(12)]
    assert sum(reply["type"] == "error" for reply in replies) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
frames = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=200),
    json_values.map(json.dumps),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["chat", "cancel", "ping", "auth", "train", ""])},
        optional={"data": json_values, "id": json_values, "traceparent": json_values, "x": json_values},
    ).map(json.dumps),
    st.fixed_dictionaries(
        {
            "type": st.just("chat"),
            "data": st.dictionaries(
                st.sampled_from(
                    ["message", "conversation_id", "strategy", "context", "model", "stream", "path"]
                ),
                json_values,
                max_size=5,
            ),
        },
    ).map(json.dumps),
    st.binary(max_size=50),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=frames)
@pytest.mark.slow
def test_no_frame_ends_the_socket_or_shows_what_is_inside(socket, frame):
    socket.send(frame)
    socket.send(json.dumps({"type": "ping", "id": "probe"}))
    for _ in range(100):
        reply = socket.receive_json()
        assert reply["type"] in ("pong", "error", "chat_response", "chat_delta")
        assert "Traceback" not in str(reply)
        if reply.get("id") == "probe":
            return
    raise AssertionError("the socket does not answer any more")


@pytest.mark.slow
def test_a_revoked_key_ends_its_socket(server, tmp_path):
    from grpo_host.serving.access.keys import KeyStore
    from grpo_host.storage import database

    async def with_keys(work):
        engine = database.make_engine(f"sqlite+aiosqlite:///{tmp_path / 'state' / 'server.db'}")
        try:
            return await work(KeyStore(engine))
        finally:
            await engine.dispose()

    record, token = asyncio.run(with_keys(lambda keys: keys.create("me", [Scope.CHAT])))
    with connect(
        f"ws://127.0.0.1:{server}/ws", additional_headers={"authorization": f"Bearer {token}"}
    ) as connection:
        socket = Socket(connection)
        socket.send_json(chat("hello"))
        assert socket.receive_json()["type"] == "chat_response"
        assert asyncio.run(with_keys(lambda keys: keys.revoke(record.id)))
        time.sleep(CACHE_SECONDS + 0.5)
        socket.send_json(chat("still there?"))
        assert socket.receive_json()["data"]["code"] == "unauthorized"
        with pytest.raises(ConnectionClosed) as closed:
            socket.receive_json()
        assert closed.value.rcvd.code == 1008


async def test_the_strategy_of_agent_yaml_keeps_its_options(make, tmp_path):
    app = make(strategy_options=True)

    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            own = (await say(client, "instructions?")).json()["response"]
            named = (await say(client, "instructions?", strategy="customer_service")).json()["response"]
    assert "ACME" in own
    assert own == named
