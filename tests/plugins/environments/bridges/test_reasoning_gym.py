"""Tasks of reasoning-gym's generators, against the real library."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from grpo_environments.bridges.reasoning_gym import ReasoningGymEnvironment
from grpo_sdk import Observation, StepResult, Task, assistant
from grpo_sdk.testing import EnvironmentContract

pytest.importorskip("reasoning_gym", reason="pip install 'grpo-agent-framework[reasoning-gym]'")


def made(**options: Any) -> ReasoningGymEnvironment:
    return ReasoningGymEnvironment(**{"generators": ["gcd", "leg_counting"], "train_tasks": 6, **options})


async def played(
    environment: ReasoningGymEnvironment, task: Task, answer: str
) -> tuple[Observation, StepResult]:
    opening = await environment.reset(task, seed=0)
    return opening, await environment.step(assistant(answer))


class TestReasoningGym(EnvironmentContract):
    def make(self) -> ReasoningGymEnvironment:
        return made()


async def test_the_librarys_own_answers_are_right() -> None:
    environment = made()
    tasks = environment.tasks("train")
    for task, (_, question, answer) in zip(tasks, environment.demonstrations("train"), strict=True):
        opening, result = await played(environment, task, answer["content"])

        assert opening.messages[1] == question
        assert result.outcome["success"]
        assert result.reward == 1.0


async def test_what_stands_in_no_tags_is_no_answer() -> None:
    _, result = await played(made(), made().tasks("train")[0], "It may be 7.")

    assert (result.outcome["success"], result.outcome["answer"]) == (False, None)


async def test_the_prompt_is_the_one_of_the_library_that_is_asked_for() -> None:
    from reasoning_gym.utils import SYSTEM_PROMPTS

    opening, _ = await played(made(prompt="direct"), made().tasks("train")[0], "")

    assert opening.messages[0]["content"] == SYSTEM_PROMPTS["direct"]


def test_generators_are_kinds_and_have_tasks_by_weight() -> None:
    tasks = made(generators={"gcd": 2, "leg_counting": 1}).tasks("train")

    assert Counter(task.kind for task in tasks) == {"gcd": 4, "leg_counting": 2}


async def test_levels_make_harder_tasks_of_the_same_generator() -> None:
    environment = made(generators=["chain_sum"], levels=4)
    easy, *_, hard = environment.tasks("train")[:4]
    opening = [(await played(environment, task, ""))[0].messages[1]["content"] for task in (easy, hard)]

    assert (easy.data["level"], hard.data["level"]) == (0, 3)
    assert len(opening[1]) > len(opening[0])


async def test_a_check_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = made(seconds=0.05)
    await environment.reset(environment.tasks("train")[0], seed=0)
    monkeypatch.setattr(type(environment._dataset), "score_answer", lambda *_: time.sleep(1))

    with pytest.raises(TimeoutError, match=r"gcd did not score an answer within 0\.05 s"):
        await environment.step(assistant("<answer>1</answer>"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generators": ["gdc"]}, 'reasoning-gym has no "gdc". Did you mean "gcd"?'),
        ({"generators": []}, "name at least one"),
        ({"generators": {"gcd": 0}}, 'the weight of "gcd" is 0'),
        ({"options": {"chain_sum": {}}}, '"chain_sum" is not among the generators'),
        ({"generators": ["composite"], "levels": 2}, '"composite" has no curriculum'),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        made(**options)
