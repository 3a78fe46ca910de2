from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
from pydantic import BaseModel

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import Endpoint
from grpo_sdk import ModelError
from grpo_sdk.errors import ContextOverflowError

HELLO = {"text": "hello"}


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b"\xff", "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b"{}", "application/json", 422, "invalid_request"),
        (b'{"text": "a", "other": 1}', "application/json", 422, "invalid_request"),
        (b'{"text": "a", "seconds": "1"}', "application/json", 422, "invalid_request"),
        (b'{"text": "a", "seconds": true}', "application/json", 422, "invalid_request"),
        (b'{"text": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"text": "a"}', "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"text": "a"}', "application/jsonp", 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_cannot_be_taken(serving, content, content_type, status, code):
    async with serving() as server:
        answer = await server.client.post("/api/say", content=content, headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert server.handled == []


async def test_a_query_is_validated_and_says_each_thing_once(serving):
    class Page(BaseModel):
        limit: int = 10

    async def page(call):
        return call.query

    endpoint = Endpoint("GET", "/api/page", page, Scope.CHAT, "Page", query=Page, response=Page)
    async with serving([endpoint]) as server:
        get = server.client.get
        assert (await get("/api/page?limit=5")).json() == {"limit": 5}
        assert (await get("/api/page")).json() == {"limit": 10}
        assert (await get("/api/page?limit=five")).json()["error"]["message"] == "limit: give a whole number"
        twice = await get("/api/page?limit=5&limit=6")
        assert (twice.status_code, twice.json()["error"]["message"]) == (422, "limit: give it once")
        other = await get("/api/page?limt=5")
        assert other.json()["error"]["message"] == "limt: there is no such parameter"


async def test_what_is_wrong_is_told_field_by_field_and_never_repeated(serving):
    async with serving() as server:
        wrong = {"text": 5, "seconds": "hunter2", "other": "hunter2"}
        answer = await server.client.post("/api/say", json=wrong)
        assert answer.json()["error"] == {
            "code": "invalid_request",
            "message": "text: give a text; seconds: give a number; other: there is no such field",
            "param": "text",
        }


async def test_below_v1_an_error_looks_like_openai_s(serving):
    async with serving() as server:
        answer = await server.client.post("/v1/say", json={})
        assert answer.status_code == 400
        assert answer.json() == {
            "error": {
                "message": "text: this field is missing",
                "type": "invalid_request_error",
                "param": "text",
                "code": "invalid_request",
            }
        }
        await server.key()
        unknown = await server.client.get("/v1/nothing")
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (401, "authentication_error")


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(serving):
    async with serving(max_body_bytes=2000) as server:
        declared = await server.client.post("/api/say", json={"text": "a" * 3000})

        async def endless():
            while True:
                yield b"a" * 500

        chunked = await server.client.post(
            "/api/say", content=endless(), headers={"content-type": "application/json"}
        )
        lying = await server.client.post(
            "/api/say",
            content=b"{}",
            headers={"content-type": "application/json", "content-length": "-1"},
        )
        assert [a.status_code for a in (declared, chunked, lying)] == [413, 413, 413]
        assert declared.json()["error"]["code"] == "too_large"


async def test_a_method_that_a_path_does_not_take_is_told_with_those_it_takes(serving):
    async with serving() as server:
        answer = await server.client.put("/api/say")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        head = await server.client.head("/health")
        assert head.status_code == 200


async def test_a_path_with_or_without_a_slash_is_another_path_and_no_redirect(serving):
    async with serving() as server:
        for path in ("/api/say/", "//api/say", "/api//say", "/API/say", "/api/say%20"):
            assert (await server.client.post(path, json=HELLO)).status_code == 404, path


async def test_a_request_keeps_its_id_or_gets_one(serving):
    async with serving() as server:
        given = await server.client.get("/health", headers={"x-request-id": "trace-0123.abc"})
        assert given.headers["x-request-id"] == "trace-0123.abc"
        for bad in ("short", "a" * 200, "a b c d e f g h", "<script>alert(1)</script>"):
            made = await server.client.get("/health", headers={"x-request-id": bad})
            assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])
        failed = await server.client.post("/api/say", json={})
        assert failed.json()["request_id"] == failed.headers["x-request-id"]


async def test_every_answer_has_the_headers_that_keep_browsers_from_mischief(serving):
    async with serving() as server:
        for path in ("/health", "/docs", "/nothing", "/openapi.json", "/api/fail", "/api/count"):
            async with server.client.stream("GET", path) as answer:
                headers = answer.headers
                assert headers["x-content-type-options"] == "nosniff", path
                assert headers["x-frame-options"] == "DENY", path
                assert headers["cache-control"] == "no-store", path
                assert "default-src 'none'" in headers["content-security-policy"], path
                assert "unsafe" not in headers["content-security-policy"], path
                assert "access-control-allow-origin" not in headers, path
                if path == "/api/count":
                    break


async def test_pages_of_allowed_origins_may_call_and_others_may_not(serving):
    async with serving(allowed_origins=["https://app.example"]) as server:
        headers = await server.key("chat")
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        good = await server.client.options("/api/say", headers={"origin": "https://app.example", **asked})
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in good.headers
        bad = await server.client.options("/api/say", headers={"origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in bad.headers
        said = await server.client.post(
            "/api/say", json=HELLO, headers={"origin": "https://app.example", **headers}
        )
        assert said.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_surprise_is_a_500_that_tells_only_the_request_id(serving, caplog):
    async with serving() as server:
        answer = await server.client.get("/api/fail")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Zero" not in answer.text
        request_id = answer.json()["request_id"]
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert request_id in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(
    ("problem", "status", "code", "told"),
    [
        (
            ModelError("http://10.0.0.7/v1: /srv/models/secret does not answer"),
            503,
            "unavailable",
            "the model cannot answer now; try again later",
        ),
        (
            ContextOverflowError("the prompt is too long"),
            400,
            "context_length_exceeded",
            "the prompt is too long",
        ),
    ],
    ids=lambda value: str(value),
)
async def test_an_expected_failure_is_told_and_what_is_behind_the_server_is_not(
    serving, problem, status, code, told
):
    async def fail(call):
        raise problem

    endpoint = Endpoint("GET", "/api/fails", fail, Scope.CHAT, "Fails")
    async with serving([endpoint]) as server:
        answer = await server.client.get("/api/fails")
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["message"] == told
        assert ("retry-after" in answer.headers) == (status == 503)


async def test_no_key_is_ever_in_a_log_or_an_answer(serving, caplog):
    """Wherever a careless client puts it."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the client's own log

    texts = []
    async with serving() as server:
        token = (await server.key("chat"))["authorization"].removeprefix("Bearer ")
        revoked = (await server.key("chat"))["authorization"].removeprefix("Bearer ")
        await server.services.keys.revoke(revoked.split("_")[1])
        for key in (token, revoked):
            bearer = {"authorization": f"Bearer {key}"}
            requests = [
                ("GET", f"/{key}", {"headers": bearer}),
                ("GET", f"/api/{key}?key={key}", {"headers": bearer}),
                ("GET", f"/v1/{key}", {"headers": {"authorization": f"Basic {key}"}}),
                ("POST", "/api/say", {"json": {key: key, "text": 1}, "headers": bearer}),
                ("POST", "/api/say", {"content": key, "headers": bearer}),
                ("GET", "/health", {"headers": {"x-request-id": key, "host": key}}),
                ("GET", "/docs", {"headers": {"host": f"{key}.example", "origin": key}}),
                ("GET", "/api/fail", {"headers": bearer}),
                ("DELETE", f"/api/things/{key}", {"headers": bearer}),
                ("PUT", "/api/say", {"headers": {**bearer, "x-request-id": key}}),
            ]
            for method, path, options in requests:
                answer = await server.client.request(method, path, **options)
                texts += [answer.text, str(answer.headers)]
    logged = [record.getMessage() + str(record.exc_info) for record in caplog.records]
    assert any("GET" in line for line in logged)
    for secret in (token, revoked, token.split("_", 2)[2], revoked.split("_", 2)[2]):
        assert not [text for text in texts + logged if secret in text]


async def test_the_access_log_is_one_line_a_request_whatever_is_in_the_path(serving, caplog):
    caplog.set_level(logging.INFO, logger="grpo_host.serving.access")

    async with serving() as server:
        await server.client.get("/a%0aINFO%20forged%1b%5b31m", headers={"x-request-id": "one-request"})
    (line,) = [r.getMessage() for r in caplog.records if r.name == "grpo_host.serving.access"]
    assert line.isprintable()
    assert re.fullmatch(
        r"GET '/a\\nINFO forged\\x1b\[31m' 404 \d+\.\dms key='anonymous' \(anonymous\) request=one-request",
        line,
    )


async def test_rates_are_counted_a_key(serving):
    async with serving(rate="3/minute") as server:
        ann, bob = await server.key("chat"), await server.key("chat")
        answers = [await server.client.post("/api/say", json=HELLO, headers=ann) for _ in range(5)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["error"]["code"] == "rate_limited"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
        assert (await server.client.post("/api/say", json=HELLO, headers=bob)).status_code == 200
        assert (await server.client.get("/health")).status_code == 200


async def test_more_requests_than_places_wait_and_more_than_may_wait_are_refused(serving):
    async with serving(max_concurrency=2, max_queue=3) as server:
        slow = {"text": "slow", "seconds": 0.2}
        answers = await asyncio.gather(
            *(server.client.post("/api/say", json=slow) for _ in range(8)), server.client.get("/health")
        )
        statuses = [answer.status_code for answer in answers]
        assert sorted(statuses[:8]) == [200] * 5 + [429] * 3
        assert statuses[8] == 200
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "2"
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 200


async def test_one_key_cannot_take_all_the_places_and_keep_others_out(serving, eventually):
    async def work():
        async with serving(max_concurrency=2, max_queue=6) as server:
            ann, bob = await server.key("chat"), await server.key("chat")
            slow = {"text": "slow"}
            crowd = [
                asyncio.ensure_future(server.client.post("/api/hold", json=slow, headers=ann))
                for _ in range(8)
            ]
            await eventually(lambda: sum(task.done() for task in crowd) == 4)
            turn = asyncio.ensure_future(server.client.post("/api/say", json=HELLO, headers=bob))
            await eventually(lambda: server.services.admission.waiting == 3)
            server.release.set()
            other = await turn
            statuses = [answer.status_code for answer in await asyncio.gather(*crowd)]
            again = await server.client.post("/api/say", json=HELLO, headers=ann)
            return other.status_code, sorted(statuses), again.status_code

    assert await work() == (200, [200] * 4 + [429] * 4, 200)


async def test_who_waits_too_long_is_told_so_and_the_place_is_not_lost(serving, eventually):
    async with serving(max_concurrency=1, max_queue=5, queue_seconds=0.1) as server:
        first = asyncio.create_task(server.client.post("/api/hold", json={"text": "slow"}))
        await eventually(lambda: server.handled)
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 429
        server.release.set()
        assert (await first).status_code == 200
        for _ in range(3):
            assert (await server.client.post("/api/say", json=HELLO)).status_code == 200


async def test_an_endpoint_that_only_waits_takes_no_place(serving):
    async def idle(call):
        await asyncio.sleep(0.2)
        return call.body

    class Nothing(BaseModel):
        pass

    endpoint = Endpoint(
        "POST", "/api/idle", idle, Scope.CHAT, "Wait", request=Nothing, response=Nothing, takes_slot=False
    )
    async with serving([endpoint], max_concurrency=1, max_queue=0) as server:
        answers = await asyncio.gather(*(server.client.post("/api/idle", json={}) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}


async def request_and_leave(app, method, path, body, leave):
    """Send a request straight to the app, and go away after ``await leave(sent)``; what was sent."""
    sent, asked = [], False

    async def receive():
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body}
        await leave(sent)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 5),
    }
    await app(scope, receive, send)
    return sent


async def test_a_client_that_goes_away_cancels_what_was_done_for_it(serving, eventually):
    async with serving(max_concurrency=1, max_queue=0) as server:

        async def leave(_):
            await eventually(lambda: server.handled)

        body = json.dumps({"text": "slow", "seconds": 3600}).encode()
        sent = await request_and_leave(server.app, "POST", "/api/say", body, leave)
        assert sent == []
        assert server.handled == ["say slow", "cancelled"]
        assert server.services.admission.under_way == 0
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 200


async def test_a_client_that_leaves_a_stream_ends_it(serving, eventually):
    async def leave(sent):
        await eventually(lambda: len(sent) > 1)

    async with serving(max_concurrency=1, max_queue=0) as server:
        sent = await request_and_leave(server.app, "GET", "/api/count", b"", leave)
        assert sent[0]["status"] == 200
        assert 1 < len(sent) < 50
        assert server.handled == ["stream closed"]
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 200


async def test_a_client_that_reads_nothing_does_not_hold_its_place(serving, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 0.1)

    async with serving(max_concurrency=1, max_queue=0) as server:

        async def receive():
            if server.handled or receive.asked:
                await asyncio.sleep(3600)
            receive.asked = True
            return {"type": "http.request", "body": b""}

        receive.asked = False

        async def stuck(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": "/api/count",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 5),
        }
        await server.app(scope, receive, stuck)
        assert server.handled == ["stream closed"]
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 200


async def test_a_body_that_comes_too_slowly_is_given_up(serving, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.dispatch.BODY_SECONDS", 0.1)

    async def slow():
        yield b"{"
        await asyncio.sleep(5)

    async with serving() as server:
        answer = await server.client.post(
            "/api/say", content=slow(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 408


async def test_a_place_given_to_a_client_that_left_in_the_same_moment_is_passed_on(serving):
    async with serving(max_concurrency=1, max_queue=50) as server:
        bodies = [json.dumps({"text": str(n), "seconds": 0.01}).encode() for n in range(40)]
        await asyncio.gather(
            *(
                request_and_leave(
                    server.app, "POST", "/api/say", body, lambda _, n=n: asyncio.sleep(0.012 * (n % 5))
                )
                for n, body in enumerate(bodies)
            )
        )
        assert server.services.admission.waiting == 0
        answers = await asyncio.gather(*(server.client.post("/api/say", json=HELLO) for _ in range(10)))
        assert {a.status_code for a in answers} == {200}


async def test_the_server_tells_what_it_has_answered(serving, eventually):
    from grpo_host.serving.http import server_metrics

    async with serving([*server_metrics.endpoints(), *say_endpoints()]) as server:
        await server.client.post("/api/say", json=HELLO)
        await server.client.get("/nothing")

        async def leave(_):
            await eventually(lambda: server.services.admission.under_way == 1)

        body = json.dumps({"text": "slow", "seconds": 3600}).encode()
        await request_and_leave(server.app, "POST", "/api/say", body, leave)
        told = (await server.client.get("/api/metrics")).json()
        assert told["requests"]["total"] == 3
        assert told["requests"]["by_status"] == {"200": 1, "404": 1, "499": 1}
        assert 0 < told["requests"]["seconds_median"] <= told["requests"]["seconds_p95"]
        assert (told["requests"]["under_way"], told["requests"]["waiting"]) == (1, 0)
        chat_only = await server.client.get("/api/metrics", headers=await server.key("chat"))
        assert chat_only.status_code == 403


def say_endpoints():
    async def say(call):
        await asyncio.sleep(call.body.seconds)
        return call.body

    class Said(BaseModel):
        text: str
        seconds: float = 0.0

    return [Endpoint("POST", "/api/say", say, Scope.CHAT, "Say it", request=Said, response=Said)]


async def test_a_client_that_leaves_while_it_waits_leaves_its_place(serving, eventually):
    async with serving(max_concurrency=1, max_queue=1) as server:
        admission = server.services.admission

        async def leave(_):
            await eventually(lambda: admission.waiting == 1)

        slow = asyncio.create_task(server.client.post("/api/hold", json={"text": "slow"}))
        await eventually(lambda: server.handled)
        waiting = json.dumps({"text": "left"}).encode()
        sent = await request_and_leave(server.app, "POST", "/api/say", waiting, leave)
        assert sent == []
        assert admission.waiting == 0
        next_ = asyncio.create_task(server.client.post("/api/say", json=HELLO))
        await eventually(lambda: admission.waiting == 1)
        server.release.set()
        assert (await next_).status_code == 200
        assert (await slow).status_code == 200
        assert "say left" not in server.handled


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        (r"\ud83d", "\ufffd"),
        (r"a\uD83Db", "a\ufffdb"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\ufffd"),
        (r"\"\ud83d\"", '"\ufffd"'),
    ],
)
async def test_half_a_surrogate_pair_is_taken_as_no_character(serving, written, taken):
    async with serving() as server:
        body = f'{{"text": "{written}"}}'.encode()
        answer = await server.client.post(
            "/api/say", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200
        assert server.handled == [f"say {taken}"]
