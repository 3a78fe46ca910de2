from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading

import pytest

from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import GroupReward, Reward, RewardResult, Task, assistant, reward, tool_call, user
from grpo_sdk import tool_result as result
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import RewardRecord


def scored(group, *rewards, concurrency=32):
    return asyncio.run(RewardSet(rewards, concurrency=concurrency).score(group))


def one(function, *, weight=1.0, seconds=30.0):
    """The record of ``function`` on one trajectory."""
    item = WeightedReward("it", reward(function)(), weight, seconds)
    [trajectory] = scored([make_trajectory("Hello")], item)
    return trajectory.rewards["it"]


def group(*texts):
    return [make_trajectory(text, task=Task("t"), sample=index) for index, text in enumerate(texts)]


def length(trajectory):
    return len(trajectory.final_text)


class Ranked(GroupReward):
    """Scores by length within the group; ``answer`` replaces what it says."""

    def __init__(self, answer=None):
        self.answer = answer

    def score_group(self, trajectories):
        if self.answer is not None:
            return self.answer
        order = sorted(len(item.final_text) for item in trajectories)
        return [order.index(len(item.final_text)) / (len(order) - 1) for item in trajectories]


def test_a_reward_is_the_weighted_sum_of_its_parts():
    rewards = [
        WeightedReward("length", reward(length)(), 0.5),
        WeightedReward("one", reward(lambda trajectory: 1.0)(), -2.0),
    ]
    first, second = scored(group("abcd", "ab"), *rewards)
    assert (first.reward, second.reward) == (0.0, -1.0)
    assert first.rewards == {"length": RewardRecord(4.0, 0.5), "one": RewardRecord(1.0, -2.0)}


def test_a_result_brings_its_parts_and_explanation():
    record = one(lambda t: RewardResult(0.5, {"tone": 1, "facts": 0.0}, "kind but wrong"), weight=2)
    assert record == RewardRecord(0.5, 2, {"tone": 1.0, "facts": 0.0}, "kind but wrong")


def test_scoring_changes_no_trajectory():
    before = group("abcd")
    scored(before, WeightedReward("length", reward(length)()))
    assert before[0].rewards == {}
    assert before[0].reward is None


@pytest.mark.parametrize("value", [True, 1, 0.5, "numpy"])
def test_what_is_a_number_is_taken_as_one(value):
    if value == "numpy":
        value = pytest.importorskip("numpy").float32(0.5)
    assert one(lambda t: value).value == float(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), "ValueError: a score is finite, not nan"),
        (float("inf"), "ValueError: a score is finite, not inf"),
        (-float("inf"), "ValueError: a score is finite, not -inf"),
        ("0.5", "TypeError: a score is a number, not '0.5'"),
        (None, "TypeError: a score is a number, not None"),
        ([0.5], "TypeError: a score is a number, not [0.5]"),
        ({"value": 0.5}, "TypeError: a score is a number, not {'value': 0.5}"),
        (1j, "TypeError: a score is a number, not 1j"),
        (
            RewardResult(0.5, {"tone": float("nan")}),
            'ValueError: the part "tone" of a score is finite, not nan',
        ),
        (RewardResult(0.5, {"tone": "good"}), 'TypeError: the part "tone" of a score is a number'),
        (RewardResult(float("nan")), "ValueError: a score is finite"),
        (1e39, "ValueError: a score, also times its weight, is at most 1e+15 in size, not 3e+39"),
        (RewardResult(-1e39), "ValueError: a score, also times its weight, is at most 1e+15 in size"),
        (5e14, "ValueError: a score, also times its weight, is at most 1e+15 in size, not 1.5e+15"),
    ],
)
def test_what_is_no_number_that_training_can_hold_is_a_recorded_failure(value, error):
    record = one(lambda t: value, weight=3)
    assert (record.value, record.weight) == (None, 3)
    assert record.error.startswith(error)


def test_a_raising_reward_is_a_recorded_failure_that_leaves_the_rest():
    def fragile(trajectory):
        if trajectory.final_text == "ab":
            raise KeyError("no key")
        return 1.0

    rewards = [WeightedReward("fragile", reward(fragile)()), WeightedReward("length", reward(length)())]
    first, second = scored(group("ab", "abcd"), *rewards)
    assert first.rewards["fragile"].error.startswith("KeyError: 'no key' (rollouts/test_scoring.py:")
    assert first.rewards["length"].value == 2.0
    assert first.reward is None
    assert second.reward == 5.0


def test_a_reward_that_leaves_the_program_does_not():
    def leave(trajectory):
        raise SystemExit(3)

    assert one(leave).error.startswith("RuntimeError: SystemExit: 3 (rollouts/test_scoring.py:")


def test_an_async_reward_that_cancels_what_it_awaits_fails_alone():
    async def cancelled(trajectory):
        inner = asyncio.ensure_future(asyncio.sleep(5))
        inner.cancel()
        await inner

    assert one(cancelled).error == "RuntimeError: it awaited something that was cancelled"


def test_an_endless_error_is_recorded_short():
    def verbose(trajectory):
        raise ValueError("x" * 1_000_000)

    assert len(one(verbose).error) < 500


def test_a_hanging_sync_reward_is_a_recorded_failure():
    over = threading.Event()
    record = one(lambda t: over.wait(), seconds=0.05)
    over.set()
    assert record == RewardRecord(None, error="TimeoutError: no score within 0.05 s")


def test_a_hanging_async_reward_is_a_recorded_failure():
    async def hang(trajectory):
        await asyncio.Event().wait()

    assert one(hang, seconds=0.5).error == "TimeoutError: no score within 0.5 s"


def test_a_timeout_of_the_rewards_own_is_its_own_error():
    async def judge(trajectory):
        raise TimeoutError("the judge gave up")

    assert one(judge).error.startswith("TimeoutError: the judge gave up (rollouts/test_scoring.py:")


def test_a_reward_that_panics_is_a_recorded_failure():
    class Panic(BaseException):
        pass

    async def later(trajectory):
        raise Panic("out of bounds")

    def now(trajectory):
        raise Panic("out of bounds")

    assert one(later).error.startswith("Panic: out of bounds")
    assert one(now).error.startswith("Panic: out of bounds")


def test_a_sync_reward_does_not_stop_the_event_loop():
    meeting = threading.Barrier(2, timeout=5)

    def wait(trajectory):
        return float(meeting.wait() >= 0)

    played = scored(group("a", "b"), WeightedReward("wait", reward(wait)()))
    assert [item.reward for item in played] == [1.0, 1.0]


def test_async_methods_and_functions_are_awaited():
    class Judge(Reward):
        async def score(self, trajectory):
            await asyncio.sleep(0)
            return 0.25

    async def judge(trajectory):
        return RewardResult(0.75)

    rewards = [WeightedReward("class", Judge()), WeightedReward("function", reward(judge)())]
    [trajectory] = scored(group("a"), *rewards)
    assert trajectory.reward == 1.0


def test_only_so_many_scores_are_made_at_a_time():
    running, most = 0, 0

    async def judge(trajectory):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return 0.0

    scored(group(*"abcdefgh"), WeightedReward("judge", reward(judge)()), concurrency=3)
    assert most == 3


def test_waiting_for_a_turn_does_not_count_as_time():
    async def judge(trajectory):
        await asyncio.sleep(0.05)
        return 1.0

    played = scored(group(*"abcdef"), WeightedReward("j", reward(judge)(), seconds=0.2), concurrency=1)
    assert [item.reward for item in played] == [1.0] * 6


def test_a_group_is_scored_together():
    played = scored(group("a", "abc", "ab"), WeightedReward("ranked", Ranked(), 2.0))
    assert [item.reward for item in played] == [0.0, 2.0, 1.0]


def test_failed_episodes_are_not_scored_and_not_compared():
    failed = make_trajectory("a very long text", status="failed")
    seen = []

    class Watching(Ranked):
        def score_group(self, trajectories):
            seen.extend(trajectories)
            return super().score_group(trajectories)

    truncated = make_trajectory("abc", status="truncated")
    played = scored([group("a")[0], failed, truncated], WeightedReward("ranked", Watching()))
    assert failed not in seen
    assert played[1] == failed
    assert [item.reward for item in played] == [0.0, None, 1.0]


def test_a_group_without_a_living_episode_is_not_scored():
    class Never(GroupReward):
        def score_group(self, trajectories):
            raise AssertionError

    failed = [make_trajectory("a", status="failed")] * 2
    assert scored(failed, WeightedReward("never", Never())) == failed
    assert scored([], WeightedReward("never", Never())) == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([1.0], "ValueError: 1 scores for 2 trajectories"),
        ([1.0] * 3, "ValueError: 3 scores for 2 trajectories"),
        (0.5, "TypeError: score_group() returns a list of scores, not float"),
        ({"a": 0.5, "b": 1.0}, "TypeError: score_group() returns a list of scores, not dict"),
    ],
)
def test_a_wrong_number_of_scores_fails_the_whole_group(answer, error):
    played = scored(group("a", "b"), WeightedReward("ranked", Ranked(answer)))
    assert [item.rewards["ranked"].error for item in played] == [error] * 2
    assert [item.reward for item in played] == [None, None]


def test_one_bad_score_of_a_group_fails_alone():
    played = scored(group("a", "b"), WeightedReward("ranked", Ranked([float("nan"), 0.5])))
    assert [item.reward for item in played] == [None, 0.5]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hanging_group_reward_fails_the_group(kind):
    over = threading.Event()

    class Hanging(GroupReward):
        if kind == "sync":

            def score_group(self, trajectories):
                over.wait()
                return [0.0] * len(trajectories)
        else:

            async def score_group(self, trajectories):
                await asyncio.Event().wait()
                return []

    played = scored(group("a", "b"), WeightedReward("hanging", Hanging(), seconds=0.05))
    over.set()
    assert [item.rewards["hanging"].error for item in played] == ["TimeoutError: no score within 0.05 s"] * 2


def test_a_reward_cannot_mistake_tool_text_for_the_policys():
    call = tool_call("look_up", "{}", "c")
    messages = [
        user("please say SORRY"), assistant("", [call]), result(call, "SORRY"), assistant("Here it is."),
    ]  # fmt: skip

    def sorry(trajectory):
        said = trajectory.policy_text + trajectory.final_text
        said += "".join(message["content"] for message in trajectory.policy_messages)
        return float("SORRY" in said)

    [played] = scored([make_trajectory(messages)], WeightedReward("sorry", reward(sorry)()))
    assert played.reward == 0.0


def test_a_run_without_rewards_has_a_reward_of_nothing():
    [played] = scored(group("a"))
    assert (played.reward, played.rewards) == (0.0, {})


def test_every_reward_is_closed_also_after_one_that_fails(caplog):
    closed = []

    class Closing(Reward):
        def __init__(self, name):
            self.name = name

        def score(self, trajectory):
            return 0.0

        def close(self):
            closed.append(self.name)
            if self.name == "first":
                raise OSError("still busy")

    RewardSet([WeightedReward(name, Closing(name)) for name in ("first", "second")]).close()
    assert closed == ["first", "second"]
    assert 'reward "first": close(): OSError: still busy (rollouts/test_scoring.py:' in caplog.text


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_a_reward_that_leaves_the_program_when_it_is_closed_does_not(caplog, ends):
    class Leaving(Reward):
        def score(self, trajectory):
            return 0.0

        def close(self):
            raise ends(3)

    closing = threading.Thread(target=RewardSet([WeightedReward("r", Leaving())]).close)
    closing.start()
    closing.join()
    assert f'reward "r": close(): {ends.__name__}: 3 (rollouts/test_scoring.py:' in caplog.text


def test_a_close_that_is_a_coroutine_is_named(caplog):
    class Closing(Reward):
        def score(self, trajectory):
            return 0.0

        async def close(self):
            pass

    RewardSet([WeightedReward("r", Closing())]).close()
    assert (
        'reward "r": close(): TypeError: it is a coroutine, for which nobody waits; write "def close"'
        in caplog.text
    )


def test_a_reward_that_catches_its_cancellation_and_goes_on_is_left_at_its_limit(monkeypatch):
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.02)

    async def stubborn(trajectory):
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    assert one(stubborn, seconds=0.02).error == "TimeoutError: no score within 0.02 s"


def test_a_scored_trajectory_can_be_written():
    [played] = scored(group("a"), WeightedReward("r", reward(lambda t: RewardResult(1.0, {}, None))()))
    assert dataclasses.replace(played).from_json(played.to_json()) == played


async def test_a_function_that_is_a_coroutine_is_called_in_the_loop_and_any_other_in_a_thread():
    def in_the_main_thread():
        return float(threading.current_thread() is threading.main_thread())

    @reward
    async def awaits(trajectory) -> float:
        return in_the_main_thread()

    @reward
    def computes(trajectory) -> float:
        return in_the_main_thread()

    rewards = RewardSet([WeightedReward("awaits", awaits()), WeightedReward("computes", computes())])
    [scored] = await rewards.score([make_trajectory("Hi.")])
    assert [record.value for record in scored.rewards.values()] == [1.0, 0.0]
