"""The package as a whole: the host finds what it offers, and an agent that uses it plays and is scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grpo_host.testing.host import PluginHost
from grpo_sdk.testing import PluginContract

DISTRIBUTION = "acme-plugin"
AGENT = Path(__file__).parents[1] / "agent.yaml"


class TestPlugin(PluginContract):
    distribution = DISTRIBUTION


# grpo_plugin_host is a fixture that grpo-agent-framework brings to pytest.
def test_the_host_finds_all_that_the_plugin_offers(grpo_plugin_host: Callable[[str], PluginHost]) -> None:
    offered = {f"{offer.kind} {offer.name}" for offer in grpo_plugin_host(DISTRIBUTION).offers}
    assert offered == {
        # if reward
        "reward right_number",
        # end
        # if tool
        "tool add_numbers",
        # end
        # if environment
        "environment sums",
        # end
        # if strategy
        "strategy short_answers",
        # end
        # if backend
        "backend adder",
        # end
    }


def test_an_agent_that_uses_it_plays_and_is_scored(grpo_plugin_host: Callable[[str], PluginHost]) -> None:
    [trajectory] = grpo_plugin_host(DISTRIBUTION).play(AGENT, "The answer is 4.")
    assert trajectory.error is None
    assert trajectory.reward is not None
