"""What a served agent may call."""

from __future__ import annotations

from textwrap import dedent

import pytest
from tests.host.one_turn import OneTurn

from grpo_host.assembly.served_tools import lacks_tools_of_episodes, served_tools
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_sdk.errors import PluginError
from grpo_sdk.hooks import hookimpl
from grpo_sdk.strategy import Strategy


class Episodes(OneTurn):
    """Has a tool in its episodes and none elsewhere."""

    def tools(self):
        return (self.lookup_order,)

    async def lookup_order(self, order_id: str) -> str:
        """Look up an order."""
        return f"{order_id} arrives on Monday"


class Shop(Episodes):
    """Has the tool always."""

    def serving_tools(self):
        return (self.lookup_order,)


class Offline(Shop):
    def serving_tools(self):
        raise OSError("no connection to the shop")


class NeedsData(Episodes):
    def __init__(self):
        raise OSError("no data here")


class Shops:
    @hookimpl
    def grpo_environments(self):
        return {"episodes": Episodes, "shop": Shop, "offline": Offline, "needs_data": NeedsData}


@pytest.fixture
def load(tmp_path):
    registry = load_plugins()
    registry.register(Shops(), "test-shops")

    def load(environment, agent="{}"):
        path = tmp_path / "agent.yaml"
        path.write_text(
            dedent(f"""
                name: desk
                model: scripted
                backend: scripted
                agent: {agent}
                environment: {environment}
                rewards: [length]
                """)
        )
        return load_config(path), registry

    return load


def names(tools):
    return [tool.name for tool in tools]


async def test_the_environments_tools_for_serving_come_after_those_of_agent_yaml(load):
    loaded, registry = load("shop", "{tools: [calculator]}")
    tools = served_tools(resolve(loaded, registry))
    assert names(tools.of(Strategy("any"))) == ["calculator", "lookup_order"]
    assert await tools.environments[0].run({"order_id": "K482"}) == "K482 arrives on Monday"
    assert isinstance(tools.environment, Shop)


def test_the_environments_tools_are_there_whatever_the_strategy_as_in_an_episode(load):
    loaded, registry = load("shop", "{tools: [calculator]}")
    assert names(served_tools(resolve(loaded, registry)).of(Strategy("some", tools=()))) == ["lookup_order"]


def test_an_environment_that_offers_none_is_not_even_made(load):
    loaded, registry = load("needs_data", "{tools: [calculator]}")
    tools = served_tools(resolve(loaded, registry))
    assert (names(tools.of(Strategy("any"))), tools.environment) == (["calculator"], None)


@pytest.mark.parametrize(
    ("environment", "lacks"), [("episodes", True), ("shop", False), ("support_desk", False)]
)
def test_tools_that_only_episodes_have_are_noticed(load, environment, lacks):
    loaded, registry = load(environment)
    assert bool(lacks_tools_of_episodes(resolve(loaded, registry))) is lacks


def test_serving_tools_that_cannot_be_had_are_an_error_with_the_cause(load):
    loaded, registry = load("offline")
    with pytest.raises(PluginError, match=r"offline.*failed: OSError: no connection to the shop"):
        served_tools(resolve(loaded, registry))
    [problem] = check(resolve(loaded, registry), purpose="chat").problems
    assert "serving tools cannot be had: serving_tools(): OSError: no connection" in str(problem)


def test_two_tools_of_one_name_are_an_error(load, monkeypatch):
    loaded, registry = load("shop", "{tools: [calculator]}")
    monkeypatch.setattr(Shop, "serving_tools", lambda self: [lambda: 1, calculator])
    with pytest.raises(PluginError, match='two tools of the served agent are called "calculator"'):
        served_tools(resolve(loaded, registry))
    assert any(
        "both called" in str(problem) for problem in check(resolve(loaded, registry), purpose="chat").problems
    )


def calculator(expression: str) -> str:
    """Calculate."""
    return expression


def test_a_check_for_serving_lists_the_environments_tools(load):
    loaded, registry = load("shop", "{tools: [calculator]}")
    report = check(resolve(loaded, registry), purpose="chat")
    assert (report.tools, report.problems) == (["calculator", "lookup_order"], [])
