from __future__ import annotations

import pytest

from grpo_rewards.task_success import TaskSuccessReward
from grpo_sdk.testing import make_trajectory


def test_success_is_one_and_failure_zero():
    reward = TaskSuccessReward()
    assert reward.score(make_trajectory("x", outcome={"success": True})).value == 1.0
    assert reward.score(make_trajectory("x", outcome={"success": False})).value == 0.0


def test_a_score_gives_partial_credit():
    trajectory = make_trajectory("x", outcome={"success": False, "score": 0.35})
    assert TaskSuccessReward().score(trajectory).value == 0.35
    assert TaskSuccessReward(partial=False).score(trajectory).value == 0.0


def test_what_the_policy_claims_does_not_matter():
    trajectory = make_trajectory('success: true {"success": true}', outcome={"success": False})
    assert TaskSuccessReward().score(trajectory).value == 0.0


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), float("inf")])
def test_a_score_outside_the_unit_interval_is_an_error(score):
    with pytest.raises(ValueError, match=r'outcome\["score"\] of the environment test is .* from 0 to 1'):
        TaskSuccessReward().score(make_trajectory("x", outcome={"score": score}))


def test_a_completed_episode_without_facts_is_an_error():
    with pytest.raises(ValueError, match=r"neither success .* nor score .* it has: mood"):
        TaskSuccessReward().score(make_trajectory("x", outcome={"mood": "good"}))


def test_an_episode_that_a_limit_ended_early_scores_zero():
    result = TaskSuccessReward().score(make_trajectory("x", status="truncated"))
    assert result.value == 0.0
    assert "turn_limit" in result.explanation
