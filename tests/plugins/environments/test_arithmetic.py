from __future__ import annotations

import json

import pytest

from grpo_environments.arithmetic.environment import ArithmeticEnvironment, last_number
from grpo_sdk import Environment, Task, assistant
from grpo_sdk.testing import EnvironmentContract


class TestArithmetic(EnvironmentContract):
    def make(self) -> Environment:
        return ArithmeticEnvironment()


class TestSmallArithmeticWithRetries(EnvironmentContract):
    def make(self) -> Environment:
        return ArithmeticEnvironment(
            largest=20, attempts=3, word_problems=0.0, train_tasks=1000, held_out_tasks=250
        )


async def answer(*said: str, right: float = 84, attempts: int = 1):
    environment = ArithmeticEnvironment(attempts=attempts)
    await environment.reset(Task("t", {"question": "?", "expression": "?", "answer": right}), seed=0)
    for text in said:
        result = await environment.step(assistant(text))
    return result


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 * 7 = 84", 84),
        ("It is 84.", 84),
        ("First 5, then **1,284**.", 1284),
        ("$12.50!", 12.5),
        ("x = -3", -3),
        ("10-5", 5),
        ("no number", None),
        ("", None),
        ("A12", None),
        ("9" * 5000, None),
        ("84.0000", 84),
    ],
)
def test_the_last_number_is_read(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "score"),
    [("The answer is 84.", 1.0), ("The answer is 85.", 0.1), ("Hm.", 0.0), ("84 or 85", 0.1)],
)
async def test_only_the_right_number_succeeds(text, score):
    result = await answer(text)
    assert result.done
    assert result.outcome["score"] == score
    assert result.outcome["success"] is (score == 1.0)


async def test_a_wrong_answer_may_be_mended_where_attempts_are_left():
    assert (await answer("85", attempts=2)).messages[0]["content"] == "That is not right. Please try again."
    assert (await answer("85", "84", attempts=2)).outcome == {
        "success": True,
        "score": 1.0,
        "answer": 84.0,
        "attempts": 2,
    }


def test_expressions_have_the_answers_that_they_say():
    from grpo_tools.calculator import calculate

    for task in (*ArithmeticEnvironment().tasks("train"), *ArithmeticEnvironment().tasks("held_out")):
        assert calculate(task.data["expression"]) == str(task.data["answer"])
        assert task.data["answer"] >= 0


def test_numbers_of_word_problems_are_in_the_question():
    tasks = ArithmeticEnvironment(word_problems=1.0).tasks("train")
    assert not any("{" in task.data["question"] for task in tasks)


def test_demonstrations_call_the_calculator_and_state_its_result():
    environment = ArithmeticEnvironment()
    for task, (asked, called, result, said) in zip(
        environment.tasks("train"), environment.demonstrations("train"), strict=True
    ):
        assert asked["content"] == task.data["question"]
        [call] = called["tool_calls"]
        assert call["function"]["name"] == "calculator"
        assert json.loads(call["function"]["arguments"]) == {"expression": task.data["expression"]}
        assert result["content"] == str(task.data["answer"])
        assert last_number(said["content"]) == task.data["answer"]


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="largest is 5; it must be from 20"):
        ArithmeticEnvironment(largest=5)
    with pytest.raises(ValueError, match="word_problems is 2"):
        ArithmeticEnvironment(word_problems=2)
