from __future__ import annotations

import pytest

from grpo_rewards.outcome import OutcomeReward
from grpo_sdk.testing import RewardContract, make_trajectory


class TestOutcome(RewardContract):
    def make(self):
        return OutcomeReward(of="score")


def test_a_fact_is_rewarded_as_a_number():
    assert (
        OutcomeReward(of="resisted").score(make_trajectory("Hello.", outcome={"resisted": True})).value == 1.0
    )
    assert (
        OutcomeReward(of="progress").score(make_trajectory("Hello.", outcome={"progress": 0.25})).value
        == 0.25
    )


def test_a_fact_that_the_environment_does_not_give_is_an_error_that_names_those_it_gives():
    with pytest.raises(ValueError, match="has no resisted; it has: success"):
        OutcomeReward(of="resisted").score(make_trajectory("Hello.", outcome={"success": True}))


def test_an_episode_that_was_cut_before_the_fact_scores_nothing():
    cut = make_trajectory("Hello.", outcome={}, status="truncated")
    assert OutcomeReward(of="resisted").score(cut).value == 0.0


@pytest.mark.parametrize("value", ["yes", None, float("nan")])
def test_a_fact_that_is_no_number_is_an_error(value):
    with pytest.raises(ValueError, match="needs a number, or true or false"):
        OutcomeReward(of="fact").score(make_trajectory("Hello.", outcome={"fact": value}))
