"""The queue with a process that stands in for training: its files, signals and exit codes are the real
ones (see ``stand_in.py``)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.jobs.queue import ATTEMPTS
from grpo_host.serving.jobs.record import State

pytestmark = pytest.mark.slow

LEASE = 5.0
"""Seconds. What a killed server leaves is taken over as late; a machine that is slower loses its leases."""


async def until(queue, job, *states, seconds=120.0):
    """The job once it is in one of ``states``, or has ended."""
    ends = time.monotonic() + seconds
    while True:
        now = await queue.get(job.id, None)
        if now.state in states or (now.state.final and not states):
            return now
        assert time.monotonic() < ends, f"still {now.state}: {now}"
        await asyncio.sleep(0.02)


async def steps(queue, job, number, seconds=120.0):
    """Once ``number`` steps are done: the lines of metrics.jsonl."""
    ends = time.monotonic() + seconds
    while True:
        now = await queue.get(job.id, None)
        directory = queue.directory(now)
        if directory is not None and len(lines := directory.read_metrics()) >= number:
            return lines
        assert time.monotonic() < ends, "no more steps"
        await asyncio.sleep(0.02)


def attempts(queues):
    """Process ids of attempts in the order in which they began; fails where two overlap."""
    noted = [json.loads(line) for line in (queues.runs / "attempts.jsonl").read_text().splitlines()]
    began = []
    for event in noted:
        if event["event"] == "begin":
            began.append(event["pid"])
        else:
            assert event["pid"] == began[-1], "two ran at once"
    return began


async def test_a_job_runs_in_its_run_directory_and_says_what_it_came_to(queues, jobs):
    async with queues.open() as queue:
        made = await queue.submit("key", jobs.request(steps=3))
        job, directory = await until(queue, made), queue.directory

    assert (job.state, job.error, job.reached) == (State.SUCCEEDED, None, 3)
    assert job.result == {"steps": 3, "seconds": 1.0}
    assert directory(job).path == queues.runs / "agent" / job.run_id
    assert [line["step"] for line in directory(job).read_metrics()] == [1, 2, 3]


async def test_jobs_run_one_after_another_in_their_order(queues, jobs):
    async with queues.open() as first, queues.open() as second:
        made = [await queue.submit("key", jobs.request(steps=2)) for queue in (first, second) * 2]
        done = [await until(first, job) for job in made]

    assert [job.state for job in done] == [State.SUCCEEDED] * 4
    assert len(set(attempts(queues))) == 4
    assert [job.started for job in done] == sorted(job.started for job in done)
    assert all(a.finished <= b.started for a, b in itertools.pairwise(done))


async def test_a_job_that_fails_says_why_without_the_servers_paths(queues, jobs):
    async with queues.open() as queue:
        said, broke = [
            await until(queue, await queue.submit("key", jobs.request(what))) for what in ("fail", "break")
        ]

    assert (said.state, said.error) == (State.FAILED, "job.yaml:3: the model is not there")
    assert broke.state is State.FAILED
    assert "ended unexpectedly" in broke.error
    assert "secret" not in broke.error


async def test_a_process_that_cannot_be_started_is_a_failed_job(queues, jobs):
    async with queues.open(command=lambda _: ["/no/such/program"]) as queue:
        job = await until(queue, await queue.submit("key", jobs.request()))

    assert job.state is State.FAILED
    assert job.error == "its process cannot be started: No such file or directory"


async def test_a_full_queue_refuses_with_a_time_to_come_again(queues, jobs):
    async with queues.open(start=False, max_queued=1) as queue:
        await queue.submit("key", jobs.request())
        with pytest.raises(ApiError) as told:
            await queue.submit("key", jobs.request())
        error = told.value

    assert (error.status, error.code, error.retry_after) == (429, "queue_full", 60.0)


async def test_cancelling_saves_a_checkpoint_and_keeps_it(queues, jobs):
    async with queues.open() as queue:
        made = await queue.submit("key", jobs.request("slow", steps=50))
        await steps(queue, made, 1)
        asked = await queue.cancel(made.id, "key")
        job, directory = (await until(queue, made), queue.directory(asked))

    assert (asked.state, asked.cancel) == (State.RUNNING, True)
    assert job.state is State.CANCELLED
    done = [line["step"] for line in directory.read_metrics()][-1]
    assert (directory.checkpoints / f"checkpoint-{done}").is_dir()


async def test_another_server_may_cancel_the_job(queues, jobs):
    async def work():
        async with queues.open() as runs_it, queues.open(start=False) as other:
            made = await runs_it.submit("key", jobs.request("slow", steps=50))
            await steps(runs_it, made, 1)
            await other.cancel(made.id, "key")
            return await until(other, made)

    assert (await work()).state is State.CANCELLED


async def test_a_process_that_does_not_stop_is_killed(queues, jobs):
    async with queues.open(stop=0.3) as queue:
        made = await queue.submit("key", jobs.request("deaf", steps=100))
        lines = await steps(queue, made, 1)
        await queue.cancel(made.id, "key")
        job, pid = await until(queue, made), lines[0]["pid"]

    assert job.state is State.CANCELLED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_job_that_has_ended_cannot_be_cancelled_but_a_cancelled_one_again(queues, jobs):
    async def work():
        async with queues.open() as queue:
            done = await until(queue, await queue.submit("key", jobs.request(steps=1)))
            with pytest.raises(ApiError, match="ended already"):
                await queue.cancel(done.id, "key")
        async with queues.open(start=False) as queue:
            waiting = await queue.submit("key", jobs.request())
            await queue.cancel(waiting.id, "key")
            return await queue.cancel(waiting.id, "key")

    assert (await work()).state is State.CANCELLED


async def test_a_server_that_ends_in_good_order_leaves_the_job_to_the_next_at_its_checkpoint(queues, jobs):
    async with queues.open() as queue:
        made = await queue.submit("key", jobs.request("slow", steps=4))
        await steps(queue, made, 3)
        await queue.drain()
        left = await queue.get(made.id, None)
    async with queues.open() as queue:
        done = await until(queue, made)
        lines = queue.directory(done).read_metrics()

    assert (left.state, left.attempts, left.reached) == (State.QUEUED, 0, 3)
    assert (done.state, done.run_id) == (State.SUCCEEDED, left.run_id)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2]["pid"] != lines[3]["pid"], "it went on from its checkpoint"
    assert len(attempts(queues)) == 2


async def test_a_job_goes_on_where_its_own_process_was_killed(queues, jobs):
    async with queues.open() as queue:
        made = await queue.submit("key", jobs.request("slow", steps=5))
        lines = await steps(queue, made, 3)
        os.kill(lines[0]["pid"], signal.SIGKILL)
        done = await until(queue, made)
        lines = queue.directory(done).read_metrics()

    assert done.state is State.SUCCEEDED
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[1]["pid"] != lines[2]["pid"], "step 3 came after the checkpoint, and is made again"


async def test_a_job_that_dies_again_and_again_is_given_up_with_the_reason(queues, jobs):
    async with queues.open() as queue:
        job = await until(queue, await queue.submit("key", jobs.request("die")))

    assert job.state is State.INTERRUPTED
    assert f"ended {ATTEMPTS} times before it got beyond step 1" in job.error


async def test_a_job_whose_run_directory_is_elsewhere_is_interrupted(queues, jobs):
    async with queues.open() as queue:
        made = await queue.submit("key", jobs.request("slow", steps=50))
        await steps(queue, made, 1)
        await queue.drain()
        left = await queue.get(made.id, None)
    shutil.move(queues.runs / "agent" / left.run_id, queues.runs / "moved")
    async with queues.open() as queue:
        job = await until(queue, made)

    assert job.state is State.INTERRUPTED
    assert f"its run directory agent/{job.run_id} is not on the machine" in job.error


async def test_a_queue_that_lost_its_place_ends_its_process_and_leaves_the_job_alone(queues, jobs):
    async with queues.open(lease=LEASE) as queue:
        made = await queue.submit("key", jobs.request("slow", steps=500))
        lines = await steps(queue, made, 1)

        async def lost(holder, *, reached):
            queue._ending = True  # so that it does not take the job back
            return False

        queue.store.renew = lost
        ends = time.monotonic() + 120
        while queue._task is not None and not queue._task.done():
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)
        job, pid = await queue.get(made.id, None), lines[0]["pid"]

    assert job.state is State.RUNNING, "it is for the one who has the place to say how it ends"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


SERVER = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import conftest
from grpo_host.plugins import load_plugins

async def main():
    queues = conftest.Queues(sys.argv[1], Path(sys.argv[2]), load_plugins())
    async with queues.open(lease={LEASE}) as queue:
        print("ready", flush=True)
        await asyncio.sleep(120)

asyncio.run(main())
"""


@pytest.fixture
def server(queues):
    """Starts a process that runs jobs; it is killed at the end."""
    started = []

    def start():
        here = os.path.dirname(__file__)
        command = [sys.executable, "-c", SERVER, queues.url, str(queues.runs), here]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("queues", ["sqlite_url", "postgres_url"], indirect=True)
async def test_a_job_survives_kill_9_of_its_server(queues, jobs, server):
    first = server()

    async with queues.open(start=False) as client:
        made = await client.submit("key", jobs.request("slow", steps=8))
        await steps(client, made, 3)
        first.kill()
        second = server()
        await steps(client, made, 5)
        done = await until(client, made)
        second.terminate()
        lines = client.directory(done).read_metrics()

    assert (done.state, done.reached) == (State.SUCCEEDED, 8)
    assert [line["step"] for line in lines] == list(range(1, 9)), "none is lost, none is doubled"
    assert len(attempts(queues)) == 2, "and the two never overlapped"


async def test_the_process_of_a_job_does_not_outlive_its_server(queues, jobs, server):
    process = server()

    async with queues.open(start=False) as client:
        made = await client.submit("key", jobs.request("slow", steps=100))
        lines = await steps(client, made, 2)
        process.kill()
        process.wait()
        ends = time.monotonic() + 120
        while "end" not in (queues.runs / "attempts.jsonl").read_text().split('"event": ')[-1]:
            assert time.monotonic() < ends, "it still runs"
            await asyncio.sleep(0.05)
        job = await client.get(made.id, None)
        directory, _lines = client.directory(job), lines

    done = [line["step"] for line in directory.read_metrics()][-1]
    assert (directory.checkpoints / f"checkpoint-{done}").is_dir(), "it saved where it stood"


@pytest.mark.parametrize("queues", ["sqlite_url", "postgres_url"], indirect=True)
async def test_two_servers_share_the_jobs_and_one_may_die(queues, jobs, server):
    first, _ = server(), server()

    async with queues.open(start=False) as client:
        made = [await client.submit("key", jobs.request("slow", steps=2)) for _ in range(5)]
        await until(client, made[0])
        first.kill()
        done = [await until(client, job, seconds=240) for job in made]

    assert [job.state for job in done] == [State.SUCCEEDED] * 5
    attempts(queues)
