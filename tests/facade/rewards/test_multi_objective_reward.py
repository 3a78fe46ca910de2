"""The guide's multi-objective rewards are the framework's own, under other names."""

from __future__ import annotations

import pytest

from grpo_agent_framework.rewards import multi_objective_reward as guide
from grpo_rewards.embedders import HashingEmbedder
from grpo_rewards.multi_objective import MultiObjectiveReward
from grpo_sdk import Reward
from grpo_sdk.testing import RewardContract, make_trajectory

FACTORIES = [name for name in guide.__all__ if name.startswith("create_")]
TURNS = [
    {"role": "user", "content": "Where is my order?"},
    {
        "role": "assistant",
        "content": "I'm sorry about that. I will check your order right away, please wait for me.",
    },
]


@pytest.fixture(autouse=True)
def _without_model(monkeypatch):
    monkeypatch.setattr(guide, "installed_embedder", lambda: None)


def test_the_installed_sentence_model_is_used(monkeypatch):
    monkeypatch.setattr(guide, "installed_embedder", HashingEmbedder)
    assert guide.SafetyRewardComponent().reward.method == "embedding"
    assert guide.SimilarityRewardComponent(["Yes."]).reward.method == "embedding"
    [safety] = [c for c in guide.create_sales_reward().components if c.name == "safety"]
    assert safety.reward.method == "embedding"


def components():
    return [
        guide.EmpathyRewardComponent(weight=0.3),
        guide.ProfessionalismRewardComponent(weight=0.3),
        guide.ActionOrientedRewardComponent(weight=0.4),
        guide.SimilarityRewardComponent(["I will check your order."], weight=0.1),
        guide.SafetyRewardComponent(weight=0.2),
        guide.LengthRewardComponent(weight=0.1, low=10, high=50),
    ]


class TestCustomerService(RewardContract):
    def make(self):
        return guide.create_customer_service_reward(["I'll help you with that"], weight=0.4)


class TestMixed(RewardContract):
    def make(self):
        return guide.MultiObjectiveRewardFunction(components=components())


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_make_rewards_that_carry_their_weight(name):
    made = getattr(guide, name)(expected_responses=["I'll help you with that"], weight=0.4)
    assert isinstance(made, MultiObjectiveReward)
    assert made.weight == 0.4
    assert "similarity" in made.shares
    assert getattr(guide, name)().weight == 1.0


def test_components_are_rewards_that_carry_their_weight():
    assert [component.weight for component in components()] == [0.3, 0.3, 0.4, 0.1, 0.2, 0.1]
    assert all(isinstance(component, Reward) for component in components())


@pytest.mark.parametrize("index", range(6))
async def test_a_component_scores_messages(index):
    component = components()[index]
    result = await component.compute_reward(TURNS)
    assert result.score == result.value == component.score(make_trajectory(TURNS)).value > 0.2


async def test_messages_are_scored_with_parts_and_explanation():
    reward = guide.MultiObjectiveRewardFunction(components=components(), weight=0.5)
    result = await reward.compute_reward(TURNS, context={"topic": "orders"})
    assert 0.5 < result.score <= 1.0
    assert set(result.parts) == {
        "empathy",
        "professionalism",
        "action_orientation",
        "similarity",
        "safety",
        "length",
    }
    assert len(result.explanation.splitlines()) == 6


async def test_what_is_no_message_is_an_error():
    with pytest.raises(ValueError, match="message 0 has the role 'bot'"):
        await guide.create_sales_reward().compute_reward([{"role": "bot", "content": "Hi"}])
