from __future__ import annotations

import pytest

from grpo_environments.prompts import PromptsEnvironment
from grpo_sdk import assistant
from grpo_sdk.testing import EnvironmentContract, ScriptedBackend


class TestPrompts(EnvironmentContract):
    def make(self):
        return PromptsEnvironment(
            prompts=("Hello", "I need help"), held_out=("Where is my order?",), replies=("And now?",)
        )


async def play(environment, task):
    said = [m["content"] for m in (await environment.reset(task, seed=0)).messages]
    while True:
        result = await environment.step(assistant("Sure."))
        said += [m["content"] for m in result.messages]
        if result.done:
            return said, result.outcome


async def test_a_user_says_the_prompt_and_then_the_replies():
    environment = PromptsEnvironment(prompts=("Hello",), replies=("Why?", "Bye."))
    (task,) = environment.tasks("train")

    assert await play(environment, task) == (["Hello", "Why?", "Bye."], {"answered": 3})


async def test_without_replies_an_episode_is_one_answer():
    environment = PromptsEnvironment(prompts=("Hello",))

    assert await play(environment, environment.tasks("train")[0]) == (["Hello"], {"answered": 1})


def test_a_prompt_that_is_given_twice_is_one_task():
    tasks = PromptsEnvironment(prompts=("Hello", "Help", "Hello")).tasks("train")

    assert [task.data["prompt"] for task in tasks] == ["Hello", "Help"]


def test_what_cannot_be_posed_is_refused():
    with pytest.raises(ValueError, match="a text is empty"):
        PromptsEnvironment(prompts=("Hello", " "))
    with pytest.raises(ValueError, match="'Hello' stands in prompts and in held_out"):
        PromptsEnvironment(prompts=("Hello",), held_out=("Hello",))


def simulated(*replies, turns=3):
    backend = ScriptedBackend(
        script=lambda messages, _: replies[sum(m["role"] == "user" for m in messages) - 2]
    )
    return PromptsEnvironment(prompts=("Hello",), user=backend, turns=turns, instructions="End with {stop}.")


async def test_a_second_model_says_what_the_user_says_until_it_stops():
    environment = simulated("Why?", "Thanks! DONE")

    said = await play(environment, environment.tasks("train")[0])

    assert said == (["Hello", "Why?", "Thanks!"], {"answered": 2, "ended": True})


async def test_it_sees_the_conversation_from_the_users_side():
    seen = []
    backend = ScriptedBackend(script=lambda messages, _: seen.append(list(messages)) or "DONE")
    environment = PromptsEnvironment(prompts=("Hello",), user=backend, instructions="End with {stop}.")

    await play(environment, environment.tasks("train")[0])

    assert [(m["role"], m["content"]) for m in seen[0]] == [
        ("system", "End with DONE."),
        ("user", "Begin. What does the user say?"),
        ("assistant", "Hello"),
        ("user", "Sure."),
    ]


async def test_it_speaks_so_often_at_most():
    environment = simulated("Why?", "Why?", "Why?", turns=2)

    said = await play(environment, environment.tasks("train")[0])

    assert said == (["Hello", "Why?", "Why?"], {"answered": 3, "ended": False})


async def test_silence_ends_the_episode():
    environment = simulated(" ")

    assert await play(environment, environment.tasks("train")[0]) == (
        ["Hello"],
        {"answered": 1, "ended": True},
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replies": ("And?",)}, "the user is a model, which says its own replies"),
        ({"stop": ""}, "stop is empty"),
        ({"turns": 0}, "turns is 0; it must be from 1 to 1000"),
    ],
)
def test_settings_of_a_second_model_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PromptsEnvironment(prompts=("Hello",), user=ScriptedBackend(), **options)
