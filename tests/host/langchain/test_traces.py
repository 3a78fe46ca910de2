"""One id from what is served or embedded to what is trained on it, and each call traced once."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langsmith import Client

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering import make_renderer
from grpo_host.config.load import load_config
from grpo_host.config.schema import WarmStartConfig
from grpo_host.langchain import ChatGrpo, TrajectoryRecorder
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent
from grpo_host.plugins import load_plugins
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_host.serving.app import create_app
from grpo_host.serving.http.observability import Telemetry
from grpo_host.serving.settings import ServerSettings
from grpo_host.telemetry import agents
from grpo_host.telemetry.server import ServerTelemetry
from grpo_host.training.warm_start import demonstrations
from grpo_sdk import Environment, Observation, Sampling, StepResult, Task, Trajectory, hookimpl, user
from grpo_sdk.testing import ScriptedBackend

APP = """
import os
from langchain.agents import create_agent
from grpo_host.langchain import TrajectoryRecorder

def build(model):
    recorder = TrajectoryRecorder(os.environ["RECORDED"])
    return create_agent(model, []).with_config(callbacks=[recorder])
"""


class Parrot(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=lambda messages, tools: f"You say {messages[-1]['content']}")


class Parts:
    @hookimpl
    def grpo_backends(self):
        return {"parrot": Parrot}


@pytest.fixture
def served(tmp_path, monkeypatch, telemetry):
    """A server of an app that records its runs in ``tmp_path / "production.jsonl"``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("RECORDED", str(tmp_path / "production.jsonl"))
    (tmp_path / "recorded_app.py").write_text(APP)
    agent = tmp_path / "agent.yaml"
    agent.write_text(
        "name: desk\nmodel: {name: tiny}\nbackend: parrot\nenvironment: order_desk\nrewards: [length]\n"
        "agent: {runnable: 'recorded_app:build'}\n"
    )
    registry = load_plugins()
    registry.register(Parts(), "test-parts")
    loaded = load_config(agent)
    settings = ServerSettings.of(loaded, state=tmp_path / "state")
    part = Telemetry(ServerTelemetry(**telemetry.providers))
    yield create_app(settings, registry, loaded=loaded, telemetry=part)
    sys.modules.pop("recorded_app", None)


def trace_of(span) -> str:
    return format(span.context.trace_id, "032x")


@pytest.mark.parametrize("stream", [False, True])
async def test_one_id_leads_from_a_served_request_to_what_a_warm_start_imitates(
    served, telemetry, tmp_path, stream
):
    body = {"model": "desk", "messages": [{"role": "user", "content": "Hello."}], "stream": stream}
    async with served.router.lifespan_context(served):
        transport = httpx.ASGITransport(served, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200

    [trajectory] = [
        Trajectory.from_json(line) for line in (tmp_path / "production.jsonl").read_bytes().splitlines()
    ]
    assert trajectory.final_text == "You say Hello."
    request = telemetry.span("POST /v1/chat/completions")
    [chat] = [span for span in telemetry.spans if span.name.startswith("chat ")]
    assert trajectory.trace == trace_of(request) == trace_of(chat)
    assert chat.attributes["grpo.trajectory"] == trajectory.id

    settings = WarmStartConfig(dialogues=str(tmp_path / "production.jsonl"))
    [imitated] = demonstrations(None, settings, seed=0)
    assert (imitated.id, imitated.trace) == (trajectory.id, trajectory.trace)
    assert imitated.messages == trajectory.messages


@pytest.fixture
def instruments(telemetry, monkeypatch):
    """Embedded models are watched, as in a program that has set a tracer provider."""
    made = agents.AgentInstruments(**telemetry.providers)
    monkeypatch.setattr("grpo_host.langchain.source.instruments", lambda: made)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_spans_of_an_embedded_model_name_the_trajectory_that_records_it(
    instruments, telemetry, tmp_path, way
):
    path = tmp_path / "runs.jsonl"
    app = create_agent(ChatGrpo(backend=ScriptedBackend(script=lambda *_: "Hi.")), [])
    for _ in range(2):
        given, config = {"messages": [HumanMessage("Hello.")]}, {"callbacks": [TrajectoryRecorder(path)]}
        if way == "ainvoke":
            await app.ainvoke(given, config)
        elif way == "astream":
            assert [piece async for piece in app.astream(given, config)]
        else:
            found = getattr(app, way)(given, config)
            assert way == "invoke" or list(found)
    await ChatGrpo(backend=ScriptedBackend(script=lambda *_: "Hi.")).ainvoke("Hello.")  # nobody records it

    ids = [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
    assert [span.attributes.get("grpo.trajectory") for span in telemetry.spans] == [*ids, None]
    assert len(set(ids)) == 2


class Talk(Environment):
    def tasks(self, split):
        return []

    async def reset(self, task, *, seed):
        return Observation([user("Hello.")])

    async def step(self, action):
        return StepResult(done=True)


class Metadata(BaseCallbackHandler):
    def __init__(self):
        self.heard = []

    def on_chat_model_start(self, serialized, messages, *, metadata=None, **kwargs):
        self.heard.append(metadata.get("grpo_trajectory"))


def played_by(backend, build) -> AppAgent:
    renderer = make_renderer(backend.tokenizer, backend.model)
    app = App("test:build", None, build, frozenset({"model"}))
    return AppAgent(Agent(backend, renderer, sampling=Sampling(max_tokens=1000)), app)


async def play(agent, id) -> Trajectory:
    return await run_episode(
        agent, Talk, EpisodeRequest(Task("t", {}), id=id), environment_name="talk", seconds=30.0
    )


async def test_who_traces_an_app_is_told_which_trajectory_an_episodes_calls_are_of(tokens, telemetry):
    heard = Metadata()
    agent = played_by(
        tokens(lambda _: "Hi."), lambda model: create_agent(model, []).with_config(callbacks=[heard])
    )
    with telemetry.tracers.get_tracer("test").start_as_current_span("step") as span:
        trajectory = await play(agent, "train/1/0")
    assert heard.heard == ["train/1/0"]
    assert trajectory.trace == trace_of(span)


@pytest.fixture
def langsmith():
    """The runs that LangSmith's client sends, at an address of its own."""
    runs = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            runs.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def do_PATCH(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    yield runs, LangChainTracer(client=Client(api_url=url, api_key="none", auto_batch_tracing=False))
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_with_opentelemetry_and_langsmith_on_no_call_is_told_twice(
    instruments, telemetry, langsmith, way
):
    runs, tracer = langsmith
    model = ChatGrpo(backend=ScriptedBackend(script=lambda *_: "Hi."))

    async def twice(given):
        if way == "ainvoke":
            return [await model.ainvoke(given), await model.ainvoke(given)]
        return [piece for _ in "12" async for piece in model.astream(given)]

    await RunnableLambda(twice).ainvoke("Hello.", {"callbacks": [tracer]})
    tracer.wait_for_futures()
    asked = [run for run in runs if run["run_type"] == "llm"]
    assert len(asked) == len({run["id"] for run in asked}) == 2
    assert [span.name for span in telemetry.spans] == ["chat scripted", "chat scripted"]


async def test_an_episodes_calls_are_told_to_langsmith_once(tokens, langsmith):
    runs, tracer = langsmith
    backend = tokens(lambda _: "Hi.")
    agent = played_by(backend, lambda model: create_agent(model, []).with_config(callbacks=[tracer]))
    trajectory = await play(agent, "train/1/0")
    tracer.wait_for_futures()
    assert trajectory.error is None
    asked = [run for run in runs if run["run_type"] == "llm"]
    assert len(asked) == len(backend.log) == 1
    assert asked[0]["extra"]["metadata"]["grpo_trajectory"] == "train/1/0"
