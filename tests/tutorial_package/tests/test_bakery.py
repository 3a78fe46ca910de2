"""What the host relies on, and what the bakery promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from grpo_host.testing.host import PluginHost
from grpo_sdk import Environment, Reward
from grpo_sdk.testing import EnvironmentContract, PluginContract, RewardContract, ToolContract
from grpo_sdk.tools import ToolLike

from acme_bakery.environment import Counter
from acme_bakery.reward import looked_up
from acme_bakery.tool import price_of

AGENT = Path(__file__).parents[1] / "agent.yaml"


class TestPlugin(PluginContract):
    distribution = "acme-bakery"


class TestCounter(EnvironmentContract):
    def make(self) -> Environment:
        return Counter()


class TestLookedUp(RewardContract):
    data: ClassVar[Mapping[str, Any]] = {"item": "roll"}

    def make(self) -> Reward:
        return looked_up()


class TestPriceOf(ToolContract):
    arguments: ClassVar[Mapping[str, Any]] = {"item": "roll"}
    invalid_arguments: ClassVar[Sequence[Mapping[str, Any]]] = ({"item": "car"}, {})

    def make(self) -> ToolLike:
        return price_of()


def test_an_answer_that_guesses_is_no_success(grpo_plugin_host: Callable[[str], PluginHost]) -> None:
    [trajectory] = grpo_plugin_host("acme-bakery").play(AGENT, "About 5 cents.")
    assert trajectory.error is None
    assert trajectory.reward == 0.0
