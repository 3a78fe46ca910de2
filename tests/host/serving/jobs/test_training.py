"""Jobs that really train: a small random model, the real process, the real server over a socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from grpo_host.config.load import load_config
from grpo_host.serving.app import create_app
from grpo_host.serving.jobs.plan import Plan
from grpo_host.serving.jobs.process import training_command
from grpo_host.serving.jobs.queue import JobQueue, Timing
from grpo_host.serving.jobs.record import State
from grpo_host.serving.settings import ServerSettings

pytestmark = [pytest.mark.model, pytest.mark.slow]

AGENT = """\
name: tiny
model: {{name: "{model}", context: 256}}
backend: transformers
agent: {{system_prompt: Be kind.}}
environment: support_desk
rewards: [length]
sampling: {{max_tokens: 6}}
training: {{lora: {{r: 4}}, save_every: 100}}
output: "{runs}"
"""


@pytest.fixture
def agent_yaml(tmp_path, tiny_model_path):
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT.format(model=tiny_model_path, runs=tmp_path / "runs"))
    return path


@contextmanager
def served(agent_yaml):
    """A client of the whole server, which listens on a port."""
    import uvicorn

    loaded = load_config(agent_yaml)
    server = uvicorn.Server(
        uvicorn.Config(create_app(ServerSettings.of(loaded), loaded=loaded), port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=60)


def test_a_job_is_trained_and_its_adapter_served_without_a_restart(agent_yaml, tmp_path):
    with served(agent_yaml) as client:
        body = {"prompts": ["Hello", "I need help"], "num_iterations": 1, "group_size": 2}
        made = client.post("/api/train", json=body)
        assert made.status_code == 202, made.text
        job_id = made.json()["job_id"]
        told = []
        with client.stream("GET", f"/api/jobs/{job_id}/events") as events:
            told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
        done = client.get(f"/api/status/{job_id}").json()
        assert done["status"] == "succeeded", (tmp_path / "runs" / done["run"] / "job.log").read_text()
        time.sleep(1.1)  # as old as a look at the runs may be
        models = [model["id"] for model in client.get("/v1/models").json()["data"]]
        said = client.post(
            "/v1/chat/completions",
            json={"model": done["model"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
        )

    run = tmp_path / "runs" / done["model"]
    assert told[-1]["status"] == "succeeded"
    assert told[-1]["progress"]["step"] == 1
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert load_config(run / "agent.yaml").config.environment.options["prompts"] == ["Hello", "I need help"]
    assert done["model"] in models
    assert said.status_code == 200, said.text


async def test_a_job_whose_server_ends_goes_on_from_its_checkpoint(
    agent_yaml, sqlite_url, tmp_path, jobs, registry
):
    async def ends(queue, job, wanted, seconds=120.0):
        until = time.monotonic() + seconds
        while not wanted(now := await queue.get(job.id, None)):
            assert time.monotonic() < until, now
            await asyncio.sleep(0.1)
        return now

    def steps(queue, job):
        directory = queue.directory(job)
        return [line["step"] for line in directory.read_metrics()] if directory else []

    async with jobs.open_store(sqlite_url) as store:

        def queue():
            plan = Plan(load_config(agent_yaml), registry)
            return JobQueue(store, plan, tmp_path / "runs", training_command(), timing=Timing(look=0.05))

        first = queue()
        await first.start()
        made = await first.submit("key", jobs.request("Hello", "Help", steps=12, group_size=2))
        await ends(first, made, lambda job: len(steps(first, job)) >= 2)
        await first.drain()
        left = await first.get(made.id, None)
        before = steps(first, left)
        saved = list(first.directory(left).checkpoints.glob("checkpoint-*/grpo_state.json"))
        second = queue()
        await second.start()
        done = await ends(second, made, lambda job: job.state.final)
        await second.close()
        after, directory = (steps(second, done), second.directory(done))

    assert (left.state, left.reached) == (State.QUEUED, before[-1])
    assert before[-1] < 12
    assert saved
    assert done.state is State.SUCCEEDED, (directory.path / "job.log").read_text()
    assert after == list(range(1, 13))
    assert (directory.adapter / "adapter_config.json").is_file()


async def test_what_the_checks_find_is_the_jobs_error(agent_yaml, tmp_path, jobs, registry, sqlite_url):
    async with jobs.open_store(sqlite_url) as store:
        plan = Plan(load_config(agent_yaml), registry)
        queue = JobQueue(store, plan, tmp_path / "runs", training_command(), timing=Timing(look=0.05))
        await queue.start()
        made = await queue.submit("key", jobs.request("Hello", max_tokens=256))
        until = time.monotonic() + 60
        while not (job := await queue.get(made.id, None)).state.final and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await queue.close()

    assert job.state is State.FAILED
    assert job.error.startswith("job.yaml:")
    assert "256 tokens an answer leave no room for a prompt" in job.error
    assert str(tmp_path) not in job.error
