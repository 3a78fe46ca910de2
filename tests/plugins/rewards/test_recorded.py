from __future__ import annotations

from dataclasses import replace

from grpo_rewards.recorded import RecordedReward
from grpo_sdk.testing import make_trajectory


def test_what_the_app_recorded_is_the_reward():
    trajectory = replace(make_trajectory("x"), recorded={"tone": 0.5, "reward": 2.0})
    assert RecordedReward(of="tone").score(trajectory).value == 0.5
    assert RecordedReward().score(trajectory).value == 2.0


def test_an_episode_in_which_nothing_was_recorded_has_what_is_said():
    result = RecordedReward(of="tone", missing=-1.0).score(
        replace(make_trajectory("x"), recorded={"mood": 1.0})
    )
    assert result.value == -1.0
    assert result.explanation == "nothing was recorded as tone; recorded was: mood"
