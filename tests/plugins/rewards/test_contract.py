"""Every built-in reward keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from grpo_rewards.plugin import grpo_rewards
from grpo_sdk import Reward, Trajectory
from grpo_sdk.testing import RewardContract, make_trajectory

FACTORIES = dict(grpo_rewards())


class TestTaskSuccess(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["task_success"]()


class TestFormat(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["format"](pattern="[a-z]")


class TestLength(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["length"]()


class TestEmpathy(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["empathy"]()


class TestProfessionalism(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["professionalism"]()


class TestActionOrientation(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["action_orientation"]()

    def samples(self) -> Sequence[Trajectory]:
        return [make_trajectory("I'll look into it today."), make_trajectory("No.")]


def test_every_reward_has_a_contract_test():
    assert sorted(FACTORIES) == sorted(
        ["task_success", "format", "length", "empathy", "professionalism", "action_orientation"]
    )


@pytest.mark.parametrize("name", FACTORIES)
def test_every_reward_explains_its_score(name):
    text = "I'm sorry about that. I'll check it right away, thank you."
    result = FACTORIES[name]().score(make_trajectory(text, outcome={"success": True}))
    assert result.explanation
