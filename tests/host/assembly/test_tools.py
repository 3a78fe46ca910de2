"""Tools that come in bundles: in rollouts, in evaluations, served, in apps of LangChain's."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from textwrap import dedent

import pytest
from langchain.agents import create_agent
from tests.host.one_turn import OneTurn

from grpo_host.agents.agent import Agent
from grpo_host.assembly.from_yaml import build
from grpo_host.assembly.runtime import Assembly
from grpo_host.assembly.served_tools import served_tools
from grpo_host.assembly.tools import build_tools
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.langchain.agent import GrpoAgent
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent
from grpo_host.plugins import load_plugins
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Strategy, ToolBundle, ToolsLostError, assistant, hookimpl, tool_call
from grpo_sdk.errors import PluginError
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.trajectory import Task

opened: list[str] = []
"""What was opened (+) and closed (-), in order."""


@asynccontextmanager
async def notes(per: str, limit: int):
    opened.append(f"+{per}")
    written: list[str] = []

    def write_note(text: str) -> int:
        """Write a note, and get how many there are."""
        written.append(text[:limit])
        return len(written)

    def read_notes() -> str:
        """Read all notes."""
        return " / ".join(written)

    yield [write_note, read_notes]
    opened.append(f"-{per}")


def notebook(*, per: str = "episode", limit: int = 9) -> ToolBundle:
    """Notes of an episode."""
    return ToolBundle(lambda: notes(per, limit), per=per)


async def connected(*, name: str = "ask"):
    """A tool of a connection."""

    async def ask() -> str:
        """Ask."""
        return name

    ask.__name__ = name
    return ask


def several():
    def one() -> str:
        """One."""
        return "1"

    def two() -> str:
        """Two."""
        return "2"

    return [one, two]


def dying() -> ToolBundle:
    def ask_server() -> str:
        """Ask the server."""
        raise ToolsLostError("the server died")

    return ToolBundle(lambda: ask_server)


async def broken():
    raise OSError("no such server")


server = {"up": True}


async def moody():
    """Can be opened once."""
    if not server.pop("up", False):
        raise OSError("the server is down")
    return several()


class Talk(OneTurn):
    """One message, one answer."""

    says = "Take notes."


class Notebooks:
    @hookimpl
    def grpo_tools(self):
        return {
            "notebook": notebook,
            "connected": connected,
            "several": several,
            "dying": dying,
            "broken": broken,
            "moody": moody,
        }

    @hookimpl
    def grpo_environments(self):
        return {"talk": Talk}


@pytest.fixture(autouse=True)
def _nothing_opened():
    opened.clear()


@pytest.fixture
def load(tmp_path):
    registry = load_plugins()
    registry.register(Notebooks(), "notebooks")

    def load(tools):
        (tmp_path / "agent.yaml").write_text(
            dedent(f"""
                name: desk
                model: scripted
                backend: scripted
                agent: {{tools: {tools}}}
                environment: talk
                rewards: [length]
                """)
        )
        return load_config(tmp_path / "agent.yaml"), registry

    return load


def calls(*asked):
    """A script: the calls one after another, and a last answer."""

    def script(messages, tools):
        done = sum(message["role"] == "tool" for message in messages)
        if done == len(asked):
            return messages[-1]["content"]
        name, arguments = asked[done]
        return assistant("", [tool_call(name, arguments, f"call_{done}")])

    return ScriptedBackend(script=script)


async def played(load, tools, backend, episodes=2):
    """The trajectories of episodes as a run plays them, and what was open when they were played."""
    loaded, registry = load(tools)
    assembly = Assembly(loaded.config, replace(build(resolve(loaded, registry)), backend=backend))

    opened.clear()
    agent = await assembly.start()
    runs = [
        run_episode(agent, Talk, EpisodeRequest(Task("t")), environment_name="talk", seconds=20)
        for _ in range(episodes)
    ]
    try:
        return await asyncio.gather(*runs), list(opened)
    finally:
        await assembly.close()


def tool_names(tools):
    return [tool.name for tool in tools]


WRITE_TWICE = (("write_note", '{"text": "one"}'), ("write_note", '{"text": "two"}'))


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        ("[notebook, calculator]", ["write_note", "read_notes", "calculator"]),
        ("[several]", ["one", "two"]),
        ("[{name: connected, options: {name: phone}}]", ["phone"]),
    ],
)
def test_one_name_in_agent_yaml_brings_all_tools_of_a_bundle(load, tools, names):
    loaded, registry = load(tools)
    assert tool_names(build_tools(resolve(loaded, registry), Strategy("any"))) == names
    report = check(resolve(loaded, registry), purpose="chat")
    assert (report.tools, [str(p) for p in report.problems if "tools" in str(p)]) == (names, [])


def test_a_strategy_may_use_some_of_a_bundles_tools(load):
    loaded, registry = load("[notebook]")
    chosen = build_tools(resolve(loaded, registry), Strategy("reader", tools=("read_notes",)))
    assert tool_names(chosen) == ["read_notes"]


def test_a_bundle_that_cannot_be_opened_is_found_by_check(load):
    loaded, registry = load("[broken]")
    [problem] = [
        str(p) for p in check(resolve(loaded, registry), purpose="chat").problems if "broken" in str(p)
    ]
    assert (
        'tool "broken" of local (entry point "notebooks") could not be opened: OSError: no such server'
        in problem
    )


def test_two_tools_of_one_name_are_found_by_check_also_within_a_bundle(load):
    loaded, registry = load("[notebook, {name: notebook, options: {limit: 3}}]")
    problems = [str(p) for p in check(resolve(loaded, registry), purpose="chat").problems]
    assert any('this tool and agent.tools[0] are both called "write_note"' in problem for problem in problems)


def test_a_name_that_providers_refuse_is_found_by_check(load):
    loaded, registry = load("[{name: connected, options: {name: my phone}}]")
    problems = [str(p) for p in check(resolve(loaded, registry), purpose="chat").problems]
    assert any('this tool is called "my phone", which providers refuse' in problem for problem in problems)


async def test_each_episode_of_a_run_has_tools_of_its_own(load):
    trajectories, meanwhile = await played(load, "[notebook]", calls(*WRITE_TWICE))
    assert [t.messages[-1]["content"] for t in trajectories] == ["2", "2"]
    assert sorted(meanwhile) == ["+episode", "+episode", "-episode", "-episode"]


async def test_a_bundle_per_run_is_open_from_the_runs_start_to_its_end(load):
    trajectories, meanwhile = await played(
        load, "[{name: notebook, options: {per: run}}]", calls(*WRITE_TWICE)
    )
    assert sorted(t.messages[-1]["content"] for t in trajectories) == ["3", "4"]
    assert (meanwhile, opened) == (["+run"], ["+run", "-run"])


async def test_an_episode_whose_tools_are_lost_is_failed_and_not_scored(load):
    [trajectory], _ = await played(load, "[dying]", calls(("ask_server", "{}")), episodes=1)
    assert (trajectory.status, trajectory.error) == ("failed", 'tool "dying" is gone: the server died')


async def test_a_served_agents_bundle_is_opened_for_an_answer_and_closed_with_it(load):
    loaded, registry = load("[notebook, {name: connected}]")
    served = served_tools(resolve(loaded, registry))
    script = calls(*WRITE_TWICE, ("ask", "{}"), ("read_notes", "{}"))
    agent = GrpoAgent(Agent(script), tools=served.of(Strategy("any")))
    opened.clear()

    async def main():
        said = await agent.ainvoke("Take notes.")
        before = list(opened)
        await served.close()
        return said.text, before

    assert await main() == ("one / two", ["+episode", "-episode"])


async def test_an_app_of_langchains_calls_the_tools_of_its_episode(load):
    loaded, registry = load("[notebook]")
    tools = tuple(build_tools(resolve(loaded, registry), Strategy("any")))
    app = App("test", None, lambda model, tools: create_agent(model, tools), frozenset({"model", "tools"}))
    agent = AppAgent(Agent(calls(*WRITE_TWICE), tools=tools), app)
    opened.clear()
    run = run_episode(agent, Talk, EpisodeRequest(Task("t")), environment_name="talk", seconds=20)
    trajectory = await run
    assert (trajectory.error, trajectory.messages[-1]["content"]) == (None, "2")
    assert opened == ["+episode", "-episode"]


async def test_a_run_whose_tools_cannot_be_opened_does_not_start(load):
    server["up"] = True
    with pytest.raises(PluginError, match='tool "moody" could not be opened: OSError: the server is down'):
        await played(load, "[moody]", ScriptedBackend())
