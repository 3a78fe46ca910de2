"""Several rewards as one: weights, ranges, sync and async components, failures, explanation."""

from __future__ import annotations

import asyncio
import inspect
import math

import pytest

from grpo_rewards.multi_objective import Component, ComponentError, MultiObjectiveReward
from grpo_sdk import Reward, RewardResult, score_messages, user
from grpo_sdk.testing import RewardContract, make_trajectory

SAID = make_trajectory("I will look at your order.")


def constant(value):
    return lambda trajectory: value


async def later(trajectory):
    await asyncio.sleep(0)
    return RewardResult(0.25, {"waited": 1.0}, "it waited")


class Closing(Reward):
    def __init__(self):
        self.closed = 0

    def score(self, trajectory):
        return 0.5

    def close(self):
        self.closed += 1


class TestSync(RewardContract):
    def make(self):
        words = Component("words", lambda t: len(t.policy_text.split()), 0.3, high=20)
        return MultiObjectiveReward([words, Component("half", constant(0.5), 0.1)])


class TestAsync(RewardContract):
    def make(self):
        words = Component("words", lambda t: len(t.policy_text.split()), 0.3, high=20)
        return MultiObjectiveReward([words, Component("later", later, 0.1)])


class TestComponent(RewardContract):
    def make(self):
        return Component("words", lambda t: len(t.policy_text.split()), 0.3, high=20)


async def score(*components, **options):
    found = MultiObjectiveReward(components, **options).score(SAID)
    if inspect.isawaitable(found):

        async def wait():
            return await found

        return await wait()
    return found


async def test_the_score_is_the_mean_weighted_by_shares_of_the_weights():
    result = await score(Component("a", constant(1.0), 3), Component("b", constant(0.5), 1))
    assert result.value == pytest.approx(0.875)
    assert result.parts == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize("factor", [0.001, 1, 1000])
async def test_only_the_ratio_of_weights_counts(factor):
    parts = [Component("a", constant(0.9), 0.3 * factor), Component("b", constant(0.2), 0.7 * factor)]
    assert (await score(*parts)).value == pytest.approx(0.41)
    assert (await score(*parts, weight=5)).value == pytest.approx(0.41)


@pytest.mark.parametrize(
    ("value", "low", "high", "normal"),
    [
        (30, 10, 50, 0.5),
        (99, 10, 50, 1.0),
        (-1, 10, 50, 0.0),
        (40, 50, 10, 0.25),
        (-0.5, -1, 0, 0.5),
        (1, 0, 2, 0.5),
    ],
)
def test_a_value_counts_as_its_place_in_the_range(value, low, high, normal):
    component = Component("a", constant(value), low=low, high=high)
    assert component.score(SAID).value == pytest.approx(normal)


async def test_a_gate_multiplies_the_whole_score():
    result = await score(Component("good", constant(1.0), 3), Component("safe", constant(0.5), 1, gate=True))
    assert result.value == pytest.approx(0.875 * 0.5)
    assert result.explanation.splitlines()[1] == "safe 0.50 x 0.25 and gate"


async def test_sync_and_async_components_go_together():
    result = await score(Component("now", constant(0.75)), Component("later", later))
    assert result.value == pytest.approx(0.5)
    assert result.parts == {"now": 0.75, "later": 0.25}


def test_without_async_components_no_loop_is_needed():
    assert isinstance(MultiObjectiveReward([Component("a", constant(1.0))]).score(SAID), RewardResult)


async def test_the_explanation_has_a_line_for_each_component():
    explained = Component("why", constant(RewardResult(1.0, {}, "because")), 3)
    result = await score(explained, Component("plain", constant(0.5), 1))
    assert result.explanation.splitlines() == ["why 1.00 x 0.75: because", "plain 0.50 x 0.25"]


def fails(trajectory):
    raise ValueError("no such order")


async def fails_later(trajectory):
    raise ValueError("no such order")


@pytest.mark.parametrize("failing", [fails, fails_later])
async def test_a_failing_component_fails_the_score_with_its_name(failing):
    with pytest.raises(ComponentError, match="component facts: ValueError: no such order"):
        await score(Component("later", later), Component("facts", failing), Component("a", constant(1.0)))


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", True])
async def test_a_score_that_is_no_number_fails_with_the_components_name(value):
    with pytest.raises(ComponentError, match="component odd: ValueError: a score is a finite number, not"):
        await score(Component("odd", constant(value)))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MultiObjectiveReward([]), "needs a component with a weight above 0"),
        (lambda: MultiObjectiveReward([Component("a", constant(1), 0)]), "needs a component with a weight"),
        (lambda: MultiObjectiveReward([Component("a", constant(1))] * 2), "two components are called a"),
        (lambda: MultiObjectiveReward([Component("a", constant(1))], weight=math.nan), "the weight is nan"),
        (lambda: Component("a", constant(1), -1), "component a: its weight is -1; weights are 0 or more"),
        (lambda: Component("a", constant(1), low=1, high=1), "component a: its range is 1 to 1"),
    ],
)
def test_what_cannot_be_is_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("components", ["empathy", ["empathy"]])
def test_names_are_no_components(components):
    with pytest.raises(TypeError, match="components: 'empathy' is no Component; give Component"):
        MultiObjectiveReward(components)


def test_a_component_is_a_reward_or_a_function():
    with pytest.raises(TypeError, match="component a: int is no Reward and no function"):
        Component("a", 3)


async def test_a_conversation_can_be_scored():
    reward = MultiObjectiveReward(
        [Component("later", later), Component("topic", lambda t: t.task.data["topic"])]
    )
    assert (await score_messages(reward, [user("Hi")], {"topic": 0.75})).value == pytest.approx(0.5)


def test_closing_closes_the_components():
    closing = Closing()
    MultiObjectiveReward([Component("a", closing)]).close()
    assert closing.closed == 1
