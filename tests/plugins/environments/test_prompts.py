from __future__ import annotations

import asyncio

import pytest

from grpo_environments.prompts import PromptsEnvironment
from grpo_sdk import assistant
from grpo_sdk.testing import EnvironmentContract


class TestPrompts(EnvironmentContract):
    def make(self):
        return PromptsEnvironment(
            prompts=("Hello", "I need help"), held_out=("Where is my order?",), replies=("And now?",)
        )


def play(environment, task):
    async def episode():
        said = [m["content"] for m in (await environment.reset(task, seed=0)).messages]
        while True:
            result = await environment.step(assistant("Sure."))
            said += [m["content"] for m in result.messages]
            if result.done:
                return said, result.outcome

    return asyncio.run(episode())


def test_a_user_says_the_prompt_and_then_the_replies():
    environment = PromptsEnvironment(prompts=("Hello",), replies=("Why?", "Bye."))
    (task,) = environment.tasks("train")

    assert play(environment, task) == (["Hello", "Why?", "Bye."], {"answered": 3})


def test_without_replies_an_episode_is_one_answer():
    environment = PromptsEnvironment(prompts=("Hello",))

    assert play(environment, environment.tasks("train")[0]) == (["Hello"], {"answered": 1})


def test_a_prompt_that_is_given_twice_is_one_task():
    tasks = PromptsEnvironment(prompts=("Hello", "Help", "Hello")).tasks("train")

    assert [task.data["prompt"] for task in tasks] == ["Hello", "Help"]


def test_what_cannot_be_posed_is_refused():
    with pytest.raises(ValueError, match="a text is empty"):
        PromptsEnvironment(prompts=("Hello", " "))
    with pytest.raises(ValueError, match="'Hello' stands in prompts and in held_out"):
        PromptsEnvironment(prompts=("Hello",), held_out=("Hello",))
