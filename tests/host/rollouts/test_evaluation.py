from __future__ import annotations

import dataclasses
import json
import statistics

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics
from grpo_host.rollouts.evaluation import Evaluation, Interval, evaluate, evaluation_requests, summarise
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import Task, reward
from grpo_sdk.testing import ScriptedBackend, make_trajectory
from grpo_sdk.trajectory import RewardRecord

TASKS = [Task(f"t{index}", split="held_out") for index in range(6)]


def engine(fakes, events, score=lambda t: 1.0):
    return RolloutEngine(
        Agent(ScriptedBackend()),
        lambda: fakes.Talk(events=events),
        RewardSet([WeightedReward("r", reward(score)())]),
        environment_name="talk",
    )


async def evaluated(fakes, *, done=(), score=lambda t: 1.0, on_episode=lambda: None):
    events: list[str] = []
    result, played = await evaluate(
        engine(fakes, events, score), TASKS, seed=3, split="held_out", done=done, on_episode=on_episode
    )
    return result, played, [event.removeprefix("reset ") for event in events if event != "close"]


def rewarded(value, task="t", success=None):
    outcome = {} if success is None else {"success": success}
    trajectory = make_trajectory("x", task=Task(task), outcome=outcome)
    return dataclasses.replace(trajectory, reward=value, rewards={"r": RewardRecord(value)})


def test_an_interval_is_the_mean_with_its_standard_error():
    values = [0.0, 0.5, 1.0, 1.0]
    interval = Interval.of(values)
    half = 1.96 * statistics.stdev(values) / 2
    assert interval == Interval(0.625, pytest.approx(0.625 - half), pytest.approx(0.625 + half))


def test_one_value_is_a_point_and_none_is_nothing():
    assert Interval.of([0.5]) == Interval(0.5, 0.5, 0.5)
    assert Interval.of([]) is None
    assert Interval.of([1.0, 1.0]) == Interval(1.0, 1.0, 1.0)


def test_a_share_has_wilsons_interval():
    # 95 % intervals of 0, 16 and 32 of 32, by statsmodels' proportion_confint(method="wilson").
    none, half, all_ = (Interval.of_share([True] * hits + [False] * (32 - hits)) for hits in (0, 16, 32))

    assert (none.low, none.high) == (0.0, pytest.approx(0.1072, abs=1e-4))
    assert (half.low, half.high) == (pytest.approx(0.3364, abs=1e-4), pytest.approx(0.6636, abs=1e-4))
    assert (all_.low, all_.high) == (pytest.approx(0.8928, abs=1e-4), 1.0)
    assert Interval.of_share([]) is None


async def test_each_task_is_played_once_and_summed_up(fakes):
    advanced = []
    result, played, reset = await evaluated(
        fakes, score=lambda t: float(t.task.id < "t3"), on_episode=lambda: advanced.append(1)
    )
    assert sorted(reset) == [task.id for task in TASKS]
    assert [t.task for t in played] == TASKS
    assert (result.episodes, result.failed, result.split) == (6, 0, "held_out")
    assert (result.reward.mean, result.parts, result.success.mean) == (0.5, {"r": 0.5}, 1.0)
    assert result.rollouts["episodes"] == 6
    assert len(advanced) == 6
    assert json.loads(json.dumps(result.as_dict()))["reward"]["mean"] == 0.5


async def test_what_is_done_is_not_played_again(fakes):
    done = [rewarded(0.0, "t1"), rewarded(0.0, "t4"), rewarded(0.0, "elsewhere")]
    result, played, reset = await evaluated(fakes, done=done)
    assert sorted(reset) == ["t0", "t2", "t3", "t5"]
    assert [t.task.id for t in played] == [task.id for task in TASKS]
    assert result.episodes == 6
    assert result.reward.mean == pytest.approx(4 / 6)


async def test_what_failed_is_played_again(fakes):
    failed = make_trajectory("x", task=Task("t1"), status="failed")
    result, _, reset = await evaluated(fakes, done=[failed])
    assert "t1" in reset
    assert result.failed == 0


async def test_what_has_no_reward_is_played_again(fakes):
    unscored = dataclasses.replace(rewarded(None, "t1"), rewards={"r": RewardRecord(None, error="late")})
    result, _, reset = await evaluated(fakes, done=[unscored])
    assert "t1" in reset
    assert result.failed == 0


async def test_a_finished_evaluation_plays_nothing(fakes):
    result, _, reset = await evaluated(fakes, done=[rewarded(0.5, task.id) for task in TASKS])
    assert reset == []
    assert result.reward == Interval(0.5, 0.5, 0.5)


def test_what_failed_or_has_no_reward_is_left_out_and_counted():
    failed = make_trajectory("x", status="failed")
    unscored = dataclasses.replace(rewarded(None), rewards={"r": RewardRecord(None, error="no")})
    result = summarise([rewarded(1.0), failed, unscored, rewarded(0.0)], "held_out", RolloutMetrics())
    assert (result.episodes, result.failed) == (4, 2)
    assert (result.reward.mean, result.parts) == (0.5, {"r": 0.5})


def test_the_most_frequent_cause_of_failures_is_told():
    lost = [
        dataclasses.replace(rewarded(None), status="failed", error=text)
        for text in ("a", "refused", "refused")
    ]
    result = summarise([rewarded(1.0), *lost], "held_out", RolloutMetrics())

    assert result.failure == "refused"
    assert str(result).endswith("; what failed most: refused")
    assert summarise([rewarded(1.0)], "held_out", RolloutMetrics()).failure is None


def test_success_is_unknown_where_the_environment_does_not_say():
    assert summarise([rewarded(1.0)], "train", RolloutMetrics()).success is None
    said = summarise([rewarded(1.0, success=True), rewarded(1.0, success=False)], "train", RolloutMetrics())
    assert said.success.mean == 0.5


def test_an_evaluation_of_nothing_says_so():
    result = summarise([], "held_out", RolloutMetrics())
    assert (result.reward, result.parts, result.success) == (None, {}, None)
    assert str(result) == "reward unknown (0 held_out episodes, 0 s)"


def test_an_evaluation_is_read_in_one_line():
    result = Evaluation(
        "held_out", 32, 2, Interval(0.5, 0.4, 0.6), {"tone": 0.25}, Interval(0.75, 0.6, 0.9), 12.3
    )
    assert str(result) == (
        "reward 0.500 [0.400, 0.600], success 75%, tone 0.25, 2 failed (32 held_out episodes, 12 s)"
    )


def test_seeds_depend_on_the_task_alone():
    whole = {request.task.id: request for [request] in evaluation_requests(TASKS, seed=3, label="a")}
    part = {request.task.id: request for [request] in evaluation_requests(TASKS[3:], seed=3, label="b")}
    other = {request.task.id: request for [request] in evaluation_requests(TASKS, seed=4, label="a")}
    for name, request in part.items():
        assert (request.seed, request.environment_seed) == (whole[name].seed, whole[name].environment_seed)
        assert request.seed != other[name].seed
    assert len({request.seed for request in whole.values()}) == len(TASKS)
    assert whole["t0"].id == "a/t0"
