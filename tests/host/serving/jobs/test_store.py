"""Jobs and the place where they run, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys

import pytest

from grpo_host.serving.jobs.record import State
from grpo_host.serving.jobs.store import QueueFullError


@pytest.fixture
def run(url, jobs):
    """Runs ``work(store)`` on an empty database."""

    def run(work, **options):
        async def whole():
            async with jobs.open_store(url, **options) as store:
                return await work(store)

        return asyncio.run(whole())

    return run


def test_a_job_comes_back_as_it_was_submitted(run, jobs):
    async def work(store):
        made = await store.submit("key", jobs.plan("sales", steps=7), max_queued=4)
        return made, await store.get(made.id), await store.config(made.id)

    made, found, config = run(work)

    assert found == made
    assert (made.state, made.strategy, made.agent, made.steps) == (State.QUEUED, "sales", "agent", 7)
    assert config == "name: agent\n"


def test_the_queue_is_bounded(run, jobs):
    async def work(store):
        for _ in range(2):
            await store.submit("key", jobs.plan(), max_queued=2)
        with pytest.raises(QueueFullError):
            await store.submit("key", jobs.plan(), max_queued=2)
        await store.take()
        await store.submit("key", jobs.plan(), max_queued=2)

    run(work)


def test_submissions_at_once_do_not_pass_the_bound(run, jobs):
    async def work(store):
        made = await asyncio.gather(
            *(store.submit("key", jobs.plan(), max_queued=3) for _ in range(8)), return_exceptions=True
        )
        return [job for job in made if not isinstance(job, QueueFullError)]

    assert sorted(job.number for job in run(work)) == [1, 2, 3]


def test_the_job_that_waits_longest_is_taken_and_no_other_beside_it(run, jobs):
    async def work(store):
        first = await store.submit("key", jobs.plan(), max_queued=4)
        await store.submit("key", jobs.plan(), max_queued=4)
        job, _ = await store.take()
        return first, job, await store.take(), await store.something_to_do()

    first, job, beside, something = run(work)

    assert (job.id, job.state, job.attempts) == (first.id, State.RUNNING, 1)
    assert job.run_id
    assert beside is None
    assert not something


def test_a_settled_job_frees_the_place(run, jobs):
    async def work(store):
        made = [await store.submit("key", jobs.plan(), max_queued=4) for _ in range(2)]
        _, holder = await store.take()
        assert await store.settle(holder, State.SUCCEEDED, result={"steps": 3}, reached=3)
        job, _ = await store.take()
        return made, job, await store.get(made[0].id)

    made, second, first = run(work)

    assert second.id == made[1].id
    assert (first.state, first.result, first.reached) == (State.SUCCEEDED, {"steps": 3}, 3)
    assert first.finished >= first.started >= first.created


def test_a_lapsed_lease_gives_the_running_job_to_another_before_those_that_wait(run, jobs):
    async def work(store):
        first = await store.submit("key", jobs.plan(), max_queued=4)
        await store.submit("key", jobs.plan(), max_queued=4)
        taken, dead = await store.take()
        await asyncio.sleep(0.4)
        again, holder = await store.take()
        assert (again.id, again.run_id, again.attempts) == (first.id, taken.run_id, 2)
        assert not await store.renew(dead, reached=1), "who lost the place cannot take it back"
        assert not await store.settle(dead, State.FAILED, error="late"), "nor say how the job ended"
        assert (await store.get(first.id)).state is State.RUNNING
        assert await store.settle(holder, State.SUCCEEDED)

    run(work, lease=0.3)


def test_a_renewed_lease_does_not_lapse(run, jobs):
    async def work(store):
        await store.submit("key", jobs.plan(), max_queued=4)
        _, holder = await store.take()
        for _ in range(4):
            await asyncio.sleep(0.2)
            assert await store.renew(holder, reached=0)
            assert await store.take() is None

    run(work, lease=0.5)


def test_a_job_that_gets_further_may_be_begun_as_often_as_at_first(run, jobs):
    async def work(store):
        made = await store.submit("key", jobs.plan(), max_queued=4)
        counted = []
        for reached in (0, 2, 2):
            _, holder = await store.take()
            await store.renew(holder, reached=reached)
            await store.settle(holder, State.QUEUED)
            counted.append((await store.get(made.id)).attempts)
        return counted

    assert run(work) == [1, 1, 2]


def test_an_attempt_that_the_server_ended_does_not_count(run, jobs):
    async def work(store):
        made = await store.submit("key", jobs.plan(), max_queued=4)
        _, holder = await store.take()
        await store.settle(holder, State.QUEUED, counts=False)
        return await store.get(made.id)

    assert run(work).attempts == 0


def test_a_job_that_waits_is_cancelled_at_once_and_one_that_runs_is_asked(run, jobs):
    async def work(store):
        running, waiting = [await store.submit("key", jobs.plan(), max_queued=4) for _ in range(2)]
        await store.take()
        return [await store.ask_to_cancel(job.id) for job in (running, waiting)], (
            await store.wants_cancel(running.id)
        )

    (running, waiting), wanted = run(work)

    assert (running.state, running.cancel, wanted) == (State.RUNNING, True, True)
    assert (waiting.state, waiting.finished is not None) == (State.CANCELLED, True)


def test_jobs_are_listed_by_owner_and_state_the_newest_first(run, jobs):
    async def work(store):
        mine = [await store.submit("me", jobs.plan(), max_queued=9) for _ in range(3)]
        yours = await store.submit("you", jobs.plan(), max_queued=9)
        await store.ask_to_cancel(mine[0].id)
        ids = [job.id for job in (*mine, yours)]
        names = dict(zip(ids, ("a", "b", "c", "yours"), strict=True))

        async def listed(*arguments, **options):
            return "".join(names[job.id] for job in await store.list(*arguments, **options))

        assert await listed("me") == "cba"
        assert await listed() == "yourscba"
        assert await listed("me", state=State.CANCELLED) == "a"
        assert await listed("me", limit=1, offset=1) == "b"
        assert await store.get(yours.id, "me") is None

    run(work)


TAKER = """
import asyncio, json, random, sys, time
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate
from grpo_host.serving.jobs.record import State
from grpo_host.serving.jobs.store import JobStore

async def main(url):
    engine = database.make_engine(url)
    await migrate(engine)
    store = JobStore(engine)
    idle = 0
    print("ready", flush=True)
    while idle < 100:
        taken = await store.take()
        if taken is None:
            idle += 1
            await asyncio.sleep(0.01)
            continue
        idle = 0
        began = time.monotonic()
        await asyncio.sleep(random.uniform(0, 0.01))
        print(json.dumps([taken[0].id, began, time.monotonic()]), flush=True)
        assert await store.settle(taken[1], State.SUCCEEDED)
        await asyncio.sleep(random.uniform(0, 0.01))
    await engine.dispose()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_never_run_a_job_twice_nor_two_jobs_at_once(url, run, jobs):
    """With a taker instead of the queue: the point is the database."""

    async def submit(store):
        return {(await store.submit("key", jobs.plan(), max_queued=100)).id for _ in range(30)}

    takers = [
        subprocess.Popen([sys.executable, "-c", TAKER, url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [taker.stdout.readline() for taker in takers] == ["ready\n"] * 2
    submitted = run(submit)
    said = [taker.communicate(timeout=60)[0] for taker in takers]

    assert [taker.returncode for taker in takers] == [0, 0]
    ran = sorted((json.loads(line) for text in said for line in text.splitlines()), key=lambda r: r[1])
    assert sorted(job for job, _, _ in ran) == sorted(submitted), "each once"
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(ran)), "one at a time"
    assert all(said), "both had some"
