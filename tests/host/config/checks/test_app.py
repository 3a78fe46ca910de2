"""What a check finds wrong with an app that is the agent."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.torch  # each agent is to be trained


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Writes the modules of an app, and gives the folder that they are in."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(**modules: str) -> str:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(dedent(source))
        return str(tmp_path)

    yield write
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


GRAPH = """
from langchain_core.runnables import RunnableLambda
graph = RunnableLambda(lambda given: "Hello")
number = 3
def build(model):
    return graph | model
def wants_tools(model, tools):
    return graph
def wants_more(model, database):
    return graph
def makes_nothing(model):
    return None
def fails(model):
    raise OSError("no database")
"""


@pytest.mark.parametrize("name", ["graph", "build", "wants_tools"])
def test_an_app_that_can_be_had_has_no_problem(problems, shop, name):
    folder = shop(desk_app=GRAPH)
    assert problems(f"agent.runnable={{name: 'desk_app:{name}', folder: {folder}}}") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("desk_app", '"desk_app" names no app. Write module:attribute, such as shop.app:graph'),
        ("desk_ap:graph", "there is no module desk_ap in "),
        ("desk_app:grap", 'desk_app:grap: desk_app has no grap. Did you mean "graph"?'),
        ("desk_app:number", "desk_app:number is int, and an app is a Runnable"),
        (
            "desk_app:wants_more",
            'desk_app:wants_more asks for "database", and can be given model, tools, task',
        ),
        ("desk_app:makes_nothing", "desk_app:makes_nothing() is NoneType, and an app is a Runnable"),
        ("desk_app:fails", "making it raises OSError: no database. Give the app what it needs, or mend it"),
        ("broken_app:graph", "importing broken_app raises ZeroDivisionError: division by zero"),
        (
            "lacking_app:graph",
            "importing lacking_app raises ModuleNotFoundError: No module named 'not_there'",
        ),
        ("json:loads", "json is "),
        (
            "langgraph.json#shop",
            'langgraph.json has no graph "shop". Did you mean "shop_app"? It has: shop_app',
        ),
        ("other.json#shop", "other.json cannot be read: No such file or directory"),
        ("broken.json#shop", "broken.json is not JSON"),
        ("langgraph.json#file", "there is no file "),
    ],
)
def test_what_is_wrong_with_an_app_is_said_at_its_place(problems, shop, name, said):
    folder = shop(
        desk_app=GRAPH, broken_app="1 / 0", lacking_app="import not_there", json="def loads(model): ..."
    )
    from pathlib import Path

    Path(folder, "langgraph.json").write_text(
        '{"graphs": {"shop_app": "./desk_app.py:graph", "file": "./no.py:g"}}'
    )
    Path(folder, "broken.json").write_text("{")
    [line] = problems(f"agent.runnable={{name: '{name}', folder: {folder}}}")
    assert "agent.runnable: " in line
    assert said in line


def test_a_graph_of_langgraph_json_is_found(problems, shop):
    from pathlib import Path

    folder = shop(desk_app=GRAPH)
    text = '{"dependencies": ["."], "graphs": {"shop": "./desk_app.py:graph", "other": {"path": "desk_app:build"}}}'
    Path(folder, "langgraph.json").write_text(text)
    for graph in ("shop", "other"):
        assert problems(f"agent.runnable={{name: 'langgraph.json#{graph}', folder: {folder}}}") == []


def test_what_an_app_is_given_begins_with_something_that_there_is(problems, shop):
    folder = shop(desk_app=GRAPH)
    runnable = f"agent.runnable={{name: 'desk_app:graph', folder: {folder}}}"
    assert problems(runnable, "agent.input={question: text, orders: task.orders}") == []
    [line] = problems(runnable, "agent.input={question: txt}")
    assert 'agent.input.question: "txt" is no path. Did you mean "text"? A path begins with messages' in line
    [line] = problems(runnable, "agent.input=txt")
    assert 'agent.input: "txt" is no path' in line
    [line] = problems(runnable, "agent.context={orders: tsk.orders}")
    assert 'agent.context.orders: "tsk.orders" is no path. Did you mean "task"?' in line


def test_a_model_to_redirect_has_its_provider(problems, shop):
    folder = shop(desk_app=GRAPH)
    runnable = f"agent.runnable={{name: 'desk_app:graph', folder: {folder}}}"
    assert problems(runnable, 'agent.redirect={"openai:gpt-5-mini": policy}') == []
    [line] = problems(runnable, "agent.redirect={gpt-5-mini: policy}")
    assert "agent.redirect.gpt-5-mini: name a model with its provider, such as openai:gpt-5-mini" in line


@pytest.mark.parametrize("train", ["[]", "{writer: 0}"])
def test_some_role_has_to_be_trained(problems, shop, train):
    folder = shop(desk_app=GRAPH)
    runnable = f"agent.runnable={{name: 'desk_app:graph', folder: {folder}}}"
    assert problems(runnable, "agent.train={writer: 0, judge: 0.5}") == []
    [line] = problems(runnable, f"agent.train={train}")
    assert "agent.train: no role is trained. Leave it out to train all" in line


def test_what_an_app_has_no_use_for_is_a_problem(problems, report, shop):
    folder = shop(desk_app=GRAPH)
    runnable = f"agent.runnable={{name: 'desk_app:graph', folder: {folder}}}"
    [line] = problems(runnable, "agent.system_prompt=Be kind.")
    assert "agent.system_prompt: the app in agent.runnable has its own prompt. Leave this out" in line
    [line] = problems(runnable, "agent.tools=[lookup]")
    assert "agent.tools: desk_app:graph takes no tools. Leave them out, or give it a parameter" in line
    [warning] = report(runnable, "environment.options.tools=true").warnings
    assert (
        "desk_app:graph does not ask for tools, so it is played without those of the environment" in warning
    )


@pytest.mark.parametrize(
    "said", ["input=text", "context={a: text}", "output=text", "redirect={'a:b': policy}", "train=[desk]"]
)
def test_what_is_said_of_an_app_needs_one(problems, said):
    [line] = problems(f"agent.{said}")
    assert "this is about an app, and agent.runnable names none" in line
