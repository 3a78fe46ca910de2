from __future__ import annotations

import dataclasses
import inspect
from typing import ClassVar

import pytest

from grpo_sdk import Reward, RewardResult, Task, reward, score_messages
from grpo_sdk.rewards import FunctionReward, GroupReward
from grpo_sdk.testing import GroupRewardContract, RewardContract, make_trajectory


@reward
def short(trajectory, *, limit: int = 200, strict: bool = False) -> float:
    """Short answers."""
    return float(len(trajectory.final_text) <= limit)


class TestDecorated(RewardContract):
    def make(self) -> Reward:
        return short(limit=50)


class TestAsync(RewardContract):
    def make(self) -> Reward:
        @reward
        async def quiet(trajectory) -> RewardResult:
            return RewardResult(1.0 / (1 + len(trajectory.policy_text)), {"x": 1.0}, "quiet")

        return quiet()


class TestRelative(GroupRewardContract):
    def make(self) -> GroupReward:
        class Longest(GroupReward):
            def score_group(self, trajectories):
                most = max(len(t.policy_text) for t in trajectories) or 1
                return [len(t.policy_text) / most for t in trajectories]

        return Longest()


@reward
def right(trajectory, answer: int, *, points: float = 1.0) -> float:
    """A value of the task by its parameter's name."""
    return points * (trajectory.final_text == str(answer))


class FromTask(Reward):
    """A value of the task as the trajectory has it."""

    def score(self, trajectory):
        return float(trajectory.final_text == trajectory.task.data["answer"])


class FromTasks(GroupReward):
    def score_group(self, trajectories):
        return [FromTask().score(trajectory) for trajectory in trajectories]


class TestOneThatReadsTheTask(RewardContract):
    data: ClassVar = {"answer": "no"}

    def make(self) -> Reward:
        return FromTask()


class TestAFunctionThatReadsTheTask(RewardContract):
    data: ClassVar = {"answer": 4}

    def make(self) -> Reward:
        return right(points=0.5)


class TestAGroupRewardThatReadsTheTask(GroupRewardContract):
    data: ClassVar = {"answer": "no"}

    def make(self) -> GroupReward:
        return FromTasks()


def test_the_samples_have_the_tasks_data_so_that_a_right_answer_is_scored():
    contract = TestOneThatReadsTheTask()
    assert [contract.score(FromTask(), trajectory) for trajectory in contract.samples()] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("made", [FromTask, right])
@pytest.mark.parametrize(
    "test", ["test_scores_are_finite_numbers_within_bounds", "test_odd_trajectories_get_a_score"]
)
def test_a_contract_without_the_tasks_data_says_how_to_give_it(made, test):
    class Contract(RewardContract):
        def make(self) -> Reward:
            return made()

    with pytest.raises(
        AssertionError, match=r"answer.*; return a low score\. If it reads .*, such as data = {"
    ):
        getattr(Contract(), test)()


def test_a_contract_of_groups_without_the_tasks_data_says_how_to_give_it():
    class Contract(GroupRewardContract):
        def make(self) -> GroupReward:
            return FromTasks()

    with pytest.raises(AssertionError, match=r"FromTasks: it raised KeyError\('answer'\).* data = {"):
        Contract().test_every_trajectory_gets_a_finite_score()


def test_a_decorated_function_is_a_factory_of_rewards():
    made = short(limit=3)
    assert isinstance(made, FunctionReward)
    assert made.score(make_trajectory("Hi.")) == 1.0
    assert made.score(make_trajectory("Hello.")) == 0.0
    assert short().score(make_trajectory("Hello.")) == 1.0


def test_the_options_are_the_parameters_after_the_trajectory():
    parameters = inspect.signature(short).parameters
    assert {name: p.default for name, p in parameters.items()} == {"limit": 200, "strict": False}
    assert short.__doc__ == "Short answers."
    assert short.__name__ == "short"


def test_a_decorated_function_may_have_another_name():
    @reward(name="brief")
    def anything(trajectory) -> float:
        return 0.0

    assert anything.__name__ == "brief"
    assert anything().score(make_trajectory("x")) == 0.0


class Bad(Reward):
    def __init__(self, value: object) -> None:
        self.value = value

    def score(self, trajectory):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("value", "test", "message"),
    [
        (float("nan"), "test_scores_are_finite_numbers_within_bounds", "Return a finite number"),
        ("good", "test_scores_are_finite_numbers_within_bounds", "the score is 'good', a str"),
        (2.0, "test_scores_are_finite_numbers_within_bounds", "outside the bounds"),
        (RewardResult(0.5, {"a": float("inf")}), "test_odd_trajectories_get_a_score", "the part 'a' is inf"),
        (ValueError("x"), "test_odd_trajectories_get_a_score", "raised ValueError"),
    ],
)
def test_the_contract_finds_bad_scores(value, test, message):
    class Contract(RewardContract):
        def make(self) -> Reward:
            return Bad(value)

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    assert message in str(raised.value)


def test_the_contract_finds_a_reward_that_reads_tool_text():
    class Fooled(Reward):
        def score(self, trajectory):
            return float(any("sorry" in message["content"] for message in trajectory.messages))

    class Contract(RewardContract):
        def make(self) -> Reward:
            return Fooled()

    with pytest.raises(AssertionError, match=r"the score changed from 0\.0 to 1\.0"):
        Contract().test_words_of_users_and_tools_do_not_count_as_the_policys()


def test_the_contract_finds_a_group_reward_that_drops_one():
    class Short(GroupReward):
        def score_group(self, trajectories):
            return [0.0] * (len(trajectories) - 1)

    class Contract(GroupRewardContract):
        def make(self) -> GroupReward:
            return Short()

    with pytest.raises(AssertionError, match="2 scores for 3 trajectories"):
        Contract().test_every_trajectory_gets_a_finite_score()


@pytest.mark.parametrize(
    "scored",
    [lambda t: 0.5 * len(t.messages), lambda t: RewardResult(0.5 * len(t.messages), {"of": 1.0})],
    ids=["number", "result"],
)
@pytest.mark.parametrize("coroutine", [False, True])
async def test_a_conversation_can_be_scored_outside_of_an_episode(scored, coroutine):
    class Given(Reward):
        if coroutine:

            async def score(self, trajectory):
                assert trajectory.task.data == {"topic": "orders"}
                return scored(trajectory)
        else:

            def score(self, trajectory):
                return scored(trajectory)

    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    result = await score_messages(Given(), said, {"topic": "orders"})
    assert isinstance(result, RewardResult)
    assert result.value == 1.0


@reward
def close_to(trajectory, answer: float, note: str = "none", *, tolerance: float = 0.0) -> RewardResult:
    return RewardResult(float(abs(float(trajectory.final_text) - answer) <= tolerance), explanation=note)


def scored(made, text, **data):
    return made.score(dataclasses.replace(make_trajectory(text), task=Task("t", data)))


def test_parameters_before_the_star_are_values_of_the_task_and_no_options():
    assert list(inspect.signature(close_to).parameters) == ["tolerance"]
    assert scored(close_to(tolerance=0.5), "3.4", answer=3).value == 1.0
    assert scored(close_to(), "3.4", answer=3, note="off").explanation == "off"


def test_a_value_of_a_csv_file_is_read_as_its_parameters_type():
    assert scored(close_to(), "3.5", answer="3.5", note=7) == RewardResult(1.0, explanation="7")


def test_a_value_that_the_task_lacks_is_named_with_those_that_it_has():
    with pytest.raises(ValueError, match='the task "t" has no "answer", which the reward asks for; its data'):
        scored(close_to(), "3", ans=3)


def test_a_value_of_another_type_is_named():
    with pytest.raises(ValueError, match="its \"answer\" is 'three': Input should be a valid number"):
        scored(close_to(), "3", answer="three")


def test_types_that_cannot_be_resolved_are_taken_as_they_are():
    def odd(trajectory, answer: Unknown):  # noqa: F821
        return answer

    assert scored(reward(odd)(), "", answer=2) == 2
