from __future__ import annotations

import asyncio
import dataclasses

import pytest

from grpo_host.assembly.from_python.rewards import EnvironmentReward, as_rewards
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk import ConfigError, GroupReward, Reward, assistant, reward, system, user
from grpo_sdk.testing import make_trajectory


class Politeness(Reward):
    def __init__(self, weight=1.0):
        self.weight = weight

    def score(self, trajectory):
        return float("please" in trajectory.policy_text)


class RelativeLength(GroupReward):
    def score_group(self, trajectories):
        return [float(len(t.policy_text)) for t in trajectories]


def episode(text="yes please", environment_reward=None, **outcome):
    messages = [system("Be kind."), user("May I?"), assistant(text)]
    return dataclasses.replace(
        make_trajectory("x"), messages=messages, outcome=outcome, environment_reward=environment_reward
    )


async def score(given, trajectory=None, **options):
    rewards = RewardSet(as_rewards(given, **options))
    return (await rewards.score([trajectory or episode()]))[0]


async def test_a_reward_counts_with_its_own_weight():
    assert (await score(Politeness(weight=0.4))).reward == 0.4


async def test_a_list_is_a_weighted_sum_and_names_its_parts():
    scored = await score([Politeness(0.5), RelativeLength()])
    assert scored.rewards.keys() == {"politeness", "relative_length"}
    assert scored.reward == 0.5 + 10


def test_two_of_a_kind_have_names_of_their_own():
    assert [item.name for item in as_rewards([Politeness(), Politeness()])] == ["politeness", "politeness_2"]


async def test_a_function_of_the_trajectory_scores():
    def word_count(trajectory):
        return len(trajectory.final_text.split())

    assert (await score(word_count)).rewards["word_count"].value == 2


async def test_a_function_of_turns_and_context_scores():
    seen = {}

    def my_reward_function(turns, context):
        seen.update(turns=turns, context=context)
        return 0.25

    scored = await score(my_reward_function, episode(mood="good"))
    assert scored.reward == 0.25
    assert [turn["role"] for turn in seen["turns"]] == ["user", "assistant"]
    assert seen["context"]["mood"] == "good"


async def test_a_coroutine_function_scores():
    async def later(turns, context):
        await asyncio.sleep(0)
        return 0.75

    assert (await score(later)).reward == 0.75


def test_a_reward_made_of_a_function_has_its_name():
    @reward
    def short(trajectory) -> float:
        return 1.0

    assert as_rewards(short())[0].name == "short"


async def test_without_a_function_the_environments_reward_counts():
    assert (await score(None, episode(environment_reward=0.5), steps_are_rewarded=True)).reward == 0.5


async def test_beside_a_function_the_environments_reward_is_shown_and_weighs_nothing():
    scored = await score(Politeness(), episode(environment_reward=0.5), steps_are_rewarded=True)
    assert scored.reward == 1.0
    assert scored.rewards["environment"].value == 0.5


async def test_the_environments_reward_can_be_given_a_weight():
    given = [Politeness(), EnvironmentReward(weight=2.0)]
    assert (await score(given, episode(environment_reward=0.5), steps_are_rewarded=True)).reward == 2.0


async def test_an_environment_without_rewards_says_so_where_they_count():
    scored = await score(None, steps_are_rewarded=True)
    assert scored.reward is None
    assert "the environment gave no reward" in scored.rewards["environment"].error


@pytest.mark.parametrize("wrong", ["empathy", 3, Politeness, lambda: 1.0, lambda a, b, c: 1.0, [None]])
def test_what_does_not_score_is_refused(wrong):
    with pytest.raises(ConfigError, match="a function of \\(trajectory\\) or of \\(turns, context\\)"):
        as_rewards(wrong)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match=r"the weight of politeness is 'much'. Give a number"):
        as_rewards(Politeness("much"))


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match="all weights are 0"):
        as_rewards(Politeness(0.0))
    with pytest.raises(ConfigError, match="nothing to score with"):
        as_rewards([])
