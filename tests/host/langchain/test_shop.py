"""examples/langchain_shop: an app that knows nothing of us, played with the order desk's customers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering import make_renderer
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.dialogues import read_demonstrations
from grpo_host.langchain.app import load_app
from grpo_host.langchain.app_agent import AppAgent
from grpo_host.langchain.app_assembly import mapping_from_config
from grpo_host.langchain.redirect import Redirect
from grpo_host.plugins import load_plugins
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_host.runs.assembled import assemble
from grpo_sdk import Capability, Sampling

EXAMPLE = Path(__file__).parents[3] / "examples" / "langchain_shop"


@pytest.fixture(params=["agent.yaml", "redirect.yaml"])
def loaded(request, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield load_config(EXAMPLE / request.param, registry=load_plugins())
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


@pytest.fixture
def played(loaded, tokens):
    """Plays a task with the app, whose model says what ``script`` says."""
    redirects: list[Redirect] = []

    def agent_of(script):
        backend = tokens(script)
        backend.capabilities = backend.capabilities | {
            Capability.STRUCTURED
        }  # its script keeps to the schema
        agent = Agent(backend, make_renderer(backend.tokenizer, backend.model), sampling=Sampling(10_000))
        made = AppAgent(
            agent, load_app(loaded.config.agent.runnable), mapping_from_config(loaded.config.agent)
        )
        redirects.append(Redirect(loaded.config.agent.redirect, made.model))
        redirects[-1].install()
        return made

    yield agent_of
    for redirect in redirects:
        redirect.restore()


def call(name, **arguments):
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


def test_the_app_imports_nothing_of_ours():
    for path in (EXAMPLE / "shop").glob("*.py"):
        assert "grpo" not in path.read_text()


def test_a_check_finds_nothing_wrong(loaded):
    report = check(resolve(loaded, load_plugins()))
    about_the_app = [str(problem) for problem in report.problems if "agent" in str(problem).split(": ")[1]]
    assert about_the_app == []
    assert report.warnings == []


@pytest.mark.parametrize("honest", [True, False])
async def test_an_answer_counts_if_the_app_looked_it_up(loaded, played, honest):
    registry = load_plugins()
    environment = assemble(resolve(loaded, registry)).parts.environment
    task = environment().tasks("held_out")[0]
    [question] = task.data["questions"]
    value = task.data["orders"][question["order"]][question["field"]]

    def script(heard):
        if honest and '"carrier"' not in heard.rsplit("user", 1)[-1]:
            return call("lookup_order", order_id=question["order"])
        return json.dumps({"order_id": question["order"], "answer": f"It is {value}."})

    agent = played(script)
    trajectory = await run_episode(
        agent, environment, EpisodeRequest(task), environment_name="order_desk", seconds=30.0
    )
    assert trajectory.error is None
    assert trajectory.outcome["success"] is honest
    assert trajectory.outcome["right_order"] == float(honest)
    assert trajectory.final_text == f"It is {value}."
    assert [len(turn.tools) for turn in trajectory.turns] == ([1, 0] if honest else [0])
    assert {sequence.role for sequence in trajectory.ledger.sequences} == {"shop"}


async def test_the_demonstrations_are_played_through_the_app_and_end_with_its_structured_answer(
    loaded, played
):
    agent = played(str)
    for demonstration in read_demonstrations(loaded.config.training.warm_start.dialogues)[:4]:
        dialogue = demonstration.messages
        [sequence] = await agent.replay(dialogue, ())
        roles = [span.role for span in sequence.spans]
        assert roles == ["system", "user", "assistant", "tool", "assistant"]
        text = agent.backend.tokenizer.decode(sequence.ids)
        assert "You help customers with their orders." in text
        assert "count_orders" in text
        asked = json.loads(dialogue[1]["tool_calls"][0]["function"]["arguments"])
        assert json.loads(dialogue[-1]["content"])["order_id"] == asked["order_id"]


def test_the_tools_work_by_themselves(loaded):
    load_app(loaded.config.agent.runnable)
    orders = importlib.import_module("shop.orders")
    customer = orders.Customer({"K482": {"eta": "Monday"}})

    class Runtime:
        context = customer

    assert orders.lookup_order.func(" #k482", Runtime()) == {"eta": "Monday"}
    assert orders.lookup_order.func("A1", Runtime()) == {"error": "order not found"}
    assert orders.count_orders.func(Runtime()) == {"orders": 1}
