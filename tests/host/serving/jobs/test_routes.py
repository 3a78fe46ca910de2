"""Training jobs over HTTP: the server's own middleware and keys; the jobs' process is the stand-in."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from grpo_host.serving import jobs


@pytest.fixture
def api(serving, queues):
    """``async with api() as (server, queue)``."""

    @asynccontextmanager
    async def open(**options):
        async with (
            queues.open(start=False, **options) as queue,
            serving(jobs.endpoints(), jobs=queue) as server,
        ):
            yield server, queue

    return open


GUIDE = {"prompts": ["Hello", "I need help"], "strategy": "computational", "num_iterations": 3}


async def submit(server, headers, **fields):
    answer = await server.client.post("/api/train", json={**GUIDE, **fields}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def ended(server, headers, job_id):
    ends = time.monotonic() + 120
    while True:
        job = (await server.client.get(f"/api/status/{job_id}", headers=headers)).json()
        if job["status"] not in ("queued", "running"):
            return job
        assert time.monotonic() < ends, job
        await asyncio.sleep(0.05)


def events_of(text):
    """Name, id and data of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    return found


async def test_a_job_is_submitted_watched_and_done(api):
    async with api() as (server, _):
        key = await server.key("train")
        made = await submit(server, key)
        done = await ended(server, key, made["job_id"])

    assert (made["status"], made["strategy"], made["model"]) == ("queued", "computational", None)
    assert made["progress"] == {"step": 0, "of": 3, "reward": None, "seconds": 0.0}
    assert (done["status"], done["error"]) == ("succeeded", None)
    assert (done["progress"]["step"], done["progress"]["of"]) == (3, 3)
    assert done["progress"]["reward"] == pytest.approx(0.3)
    assert done["progress"]["seconds"] > 0
    assert done["model"] == done["run"]
    assert done["model"].startswith("agent/")
    assert done["result"]["steps"] == 3


async def test_events_tell_every_step_and_every_state_and_then_end(api):
    async with api() as (server, _):
        key = await server.key("train")
        made = await submit(server, key)
        path = f"/api/jobs/{made['job_id']}/events"
        whole = await server.client.get(path, headers=key)
        rest = await server.client.get(path, headers={**key, "last-event-id": "2"})
        answer, events, rest = whole, events_of(whole.text), events_of(rest.text)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [data["progress"]["step"] for name, _, data in events if name == "progress"] == [1, 2, 3]
    states = [data["status"] for name, _, data in events if name == "state"]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"
    assert events[-1][0] == "state"
    assert events[-1][2]["model"]
    assert [(name, number) for name, number, _ in rest] == [("progress", 3), ("state", 3)]


async def test_the_streams_of_events_are_bounded(api, monkeypatch, eventually):
    monkeypatch.setattr("grpo_host.serving.jobs.routes.WATCHED", 1)

    async def work():
        async with api() as (server, queue):
            key = await server.key("train")
            made = await submit(server, key, prompts=["slow"], num_iterations=500)
            path = f"/api/jobs/{made['job_id']}/events"
            first = asyncio.create_task(server.client.get(path, headers=key))
            await eventually(lambda: queue.watched == 1)
            second = await server.client.get(path, headers=key)
            await server.client.post(f"/api/jobs/{made['job_id']}/cancel", headers=key)
            return second.status_code, (await first).status_code, queue.watched

    assert await work() == (429, 200, 0)


async def test_the_events_of_a_job_end_when_the_server_does(api, eventually):
    async with api() as (server, queue):
        key = await server.key("train")
        made = await submit(server, key, prompts=["slow"], num_iterations=500)
        watching = asyncio.create_task(server.client.get(f"/api/jobs/{made['job_id']}/events", headers=key))
        await eventually(lambda: queue.watched == 1)
        await server.services.drain(120)
        code, job = (await watching).status_code, await server.services.jobs.get(made["job_id"], None)

    assert code == 200
    assert job.state == "queued", "the next server goes on with it"


async def test_jobs_belong_to_the_key_that_made_them(api):
    async with api() as (server, _):
        mine, yours, admin = [await server.key(*s) for s in (("train",), ("train",), ("train", "admin"))]
        made = (await submit(server, mine))["job_id"]
        client = server.client
        for method, path in (
            ("GET", f"/api/status/{made}"),
            ("GET", f"/api/jobs/{made}/events"),
            ("POST", f"/api/jobs/{made}/cancel"),
        ):
            assert (await client.request(method, path, headers=yours)).status_code == 404, path
        assert (await client.get(f"/api/status/{made}", headers=admin)).status_code == 200

        async def listed(key):
            return [job["job_id"] for job in (await client.get("/api/jobs", headers=key)).json()["jobs"]]

        mine, yours, admin = (await listed(mine), await listed(yours), await listed(admin))

    assert mine == admin == [made]
    assert yours == []


async def test_only_keys_with_the_scope_train_may_train(api):
    async def work():
        async with api() as (server, _):
            chat = await server.key("chat")
            paths = [("POST", "/api/train"), ("GET", "/api/jobs"), ("GET", "/api/status/job_1")]
            return [
                (await server.client.request(method, path, headers=headers)).status_code
                for method, path in paths
                for headers in (chat, {})
            ]

    assert await work() == [403, 401] * 3


async def test_a_job_is_cancelled(api):
    async with api() as (server, _):
        key = await server.key("train")
        made = await submit(server, key, prompts=["slow"], num_iterations=500)
        path = f"/api/jobs/{made['job_id']}/cancel"
        await asyncio.sleep(0.5)
        asked = await server.client.post(path, headers=key)
        done = await ended(server, key, made["job_id"])
        again = await server.client.post(path, headers=key)
        asked, again = (asked.json(), again.status_code)

    assert asked["cancelling"] or asked["status"] == "cancelled"
    assert (done["status"], done["cancelling"], done["model"]) == ("cancelled", False, None)
    assert again == 200


async def test_a_failed_job_says_why(api):
    async with api() as (server, _):
        key = await server.key("train")
        made = await submit(server, key, prompts=["fail"])
        done = await ended(server, key, made["job_id"])
        cancel = await server.client.post(f"/api/jobs/{made['job_id']}/cancel", headers=key)

    assert (done["status"], done["error"]) == ("failed", "job.yaml:3: the model is not there")
    assert (cancel.status_code, cancel.json()["error"]["code"]) == (409, "finished")


async def test_jobs_are_listed_by_status_and_page(api):
    async with api() as (server, queue):
        await queue.drain()  # so that they wait
        key = await server.key("train")
        made = [(await submit(server, key))["job_id"] for _ in range(3)]
        await server.client.post(f"/api/jobs/{made[1]}/cancel", headers=key)

        async def listed(**query):
            answer = await server.client.get("/api/jobs", params=query, headers=key)
            return [made.index(job["job_id"]) for job in answer.json()["jobs"]]

        bad = await server.client.get("/api/jobs", params={"limit": 1000}, headers=key)
        everything, cancelled, page = (
            await listed(),
            await listed(status="cancelled"),
            await listed(limit=1, offset=1),
        )

    assert (everything, cancelled, page) == ([2, 1, 0], [1], [1])
    assert bad.status_code == 422


async def test_a_full_queue_answers_429_and_when_to_come_again(api):
    async with api(max_queued=1) as (server, queue):
        await queue.drain()
        key = await server.key("train")
        await submit(server, key)
        answer = await server.client.post("/api/train", json=GUIDE, headers=key)

    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) == 60


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**GUIDE, "model": "/etc/passwd"}, "model"),
        ({**GUIDE, "command": "rm -rf /"}, "command"),
        ({**GUIDE, "tools": [{"name": "knowledge_base", "options": {"path": "/etc"}}]}, "tools[0]"),
        ({**GUIDE, "rewards": ["os:system"]}, "rewards[0]"),
        ({**GUIDE, "num_iterations": 10**9}, "num_iterations"),
    ],
)
async def test_what_a_request_may_not_say_is_refused_with_its_place(api, body, param):
    async with api() as (server, queue):
        key = await server.key("train")
        answer = await server.client.post("/api/train", json=body, headers=key)
        kept = await queue.list(None)

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param
    assert list(kept) == []


@pytest.mark.parametrize("job_id", ["job_1", "../server.db", "job_" + "0" * 24, "%00", "job_" + "é" * 24])
async def test_ids_that_are_none_are_not_found(api, job_id):
    async def work():
        async with api() as (server, _):
            key = await server.key("train")
            return (await server.client.get(f"/api/status/{job_id}", headers=key)).status_code

    assert await work() == 404
