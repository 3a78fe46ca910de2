"""Every built-in reward keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from grpo_rewards.plugin import grpo_rewards
from grpo_sdk import Reward, Trajectory
from grpo_sdk.testing import RewardContract, make_trajectory

FACTORIES = dict(grpo_rewards())
ELSEWHERE = {
    *("ruler", "neural", "similarity", "safety"),
    *("customer_service", "technical_support", "sales", "tutoring"),
}
"""Their contract tests stand with their own, because they need a judge, training or a sentence model."""


class TestTaskSuccess(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["task_success"]()


class TestEnvironment(RewardContract):
    bounds = None  # the environment's

    def make(self) -> Reward:
        return FACTORIES["environment"]()

    def samples(self) -> Sequence[Trajectory]:
        return [make_trajectory("Yes.", environment_reward=given) for given in (-1.0, 0.5)]


class TestRecorded(RewardContract):
    bounds = None  # the app's

    def make(self) -> Reward:
        return FACTORIES["recorded"]()

    def samples(self) -> Sequence[Trajectory]:
        return [replace(make_trajectory("Yes."), recorded={"reward": given}) for given in (-1.0, 0.5)]


class TestOutcome(RewardContract):
    bounds = None  # the environment's

    def make(self) -> Reward:
        return FACTORIES["outcome"](of="success")

    def samples(self) -> Sequence[Trajectory]:
        return [make_trajectory("Yes.", outcome={"success": given}) for given in (True, 0.25)]


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


class TestDiagnosis(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["diagnosis"]()


class TestDiscovery(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["discovery"]()


class TestGuidance(RewardContract):
    def make(self) -> Reward:
        return FACTORIES["guidance"]()


def test_every_reward_has_a_contract_test():
    assert FACTORIES.keys() - ELSEWHERE == {
        "task_success",
        "environment",
        "recorded",
        "outcome",
        "format",
        "length",
        "empathy",
        "professionalism",
        "action_orientation",
        "diagnosis",
        "discovery",
        "guidance",
    }


@pytest.mark.parametrize("name", sorted(FACTORIES.keys() - ELSEWHERE))
def test_every_reward_explains_its_score(name):
    text = "I'm sorry about that. I'll check it right away, thank you."
    trajectory = make_trajectory(text, outcome={"success": True}, environment_reward=1.0)
    options = {"of": "success"} if name == "outcome" else {}
    result = FACTORIES[name](**options).score(trajectory)
    assert result.explanation
