from __future__ import annotations

import pytest

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.assembly.from_python.environments import (
    PromptEnvironment,
    as_environment,
    prompt_task,
    split_prompts,
)
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import ConfigError, Environment, Task, system
from grpo_sdk.testing import ScriptedBackend


class Steps:
    """Answers steps with ``answers`` in turn."""

    def __init__(self, *answers, opening=None):
        self.answers = list(answers)
        self.opening = opening if opening is not None else {"state": "initial"}
        self.heard = []
        self.prompt = "not set"

    async def reset(self):
        return dict(self.opening)

    async def step(self, action):
        self.heard.append(action)
        return self.answers.pop(0)


async def play(inner, task=None, turns=8):
    agent = Agent(ScriptedBackend(script=lambda m, t: f"answer {len(m)}"), limits=AgentLimits(turns=turns))
    request = EpisodeRequest(task or prompt_task("Where is my order?", "p"))
    return await run_episode(
        agent, lambda: PromptEnvironment(inner), request, environment_name="e", seconds=5
    )


async def test_the_prompt_is_the_users_first_message_and_the_step_hears_the_answer():
    inner = Steps({"reward": 0.5, "done": True})
    played = await play(inner)
    assert [m["content"] for m in played.messages] == ["Where is my order?", "answer 1"]
    assert inner.heard == ["answer 1"]
    assert inner.prompt == "Where is my order?"


async def test_rewards_of_steps_are_summed():
    played = await play(Steps({"reward": 0.5, "message": "Really?"}, {"reward": 0.25, "done": True}))
    assert played.environment_reward == 0.75
    assert [m["content"] for m in played.messages][2] == "Really?"


async def test_an_environment_that_says_nothing_more_ends_the_episode():
    played = await play(Steps({"reward": 0.5, "done": False}))
    assert played.status == "completed"
    assert played.outcome["done"] is False


async def test_facts_of_reset_and_steps_are_the_outcome():
    played = await play(Steps({"mood": "good", "done": True}, opening={"state": "initial"}))
    assert played.outcome == {"state": "initial", "mood": "good", "done": True}


async def test_rewards_until_a_limit_count():
    played = await play(Steps(*[{"reward": 1.0, "message": "More!"}] * 3), turns=2)
    assert (played.status, played.environment_reward) == ("truncated", 2.0)


async def test_messages_of_reset_stand_before_the_prompt():
    played = await play(Steps({"done": True}, opening={"messages": [system("Be kind.")]}))
    assert [m["role"] for m in played.messages] == ["system", "user", "assistant"]


async def test_without_prompts_episodes_open_with_what_reset_says():
    played = await play(Steps({"done": True}), task=Task("train-0"))
    assert played.messages[0]["content"] == "initial"
    assert len(PromptEnvironment(Steps()).tasks("train")) == 64
    assert PromptEnvironment(Steps()).tasks("held_out") == [], "all begin alike: nothing is held out"


async def test_an_episode_that_nothing_opens_fails_and_says_why():
    played = await play(Steps(opening={"level": 3}), task=Task("train-0"))
    assert played.status == "failed"
    assert "reset() returned nothing that opens it (message, observation, prompt, state)" in played.error


async def test_an_answer_that_is_no_dictionary_fails_the_episode_and_says_so():
    assert "step() returned 0.5; it is to return a dictionary" in (await play(Steps(0.5))).error


def test_every_fifth_prompt_is_held_out():
    prompts = [f"p{index}" for index in range(11)]
    assert split_prompts(prompts, None) == {
        "train": ["p0", "p1", "p2", "p3", "p5", "p6", "p7", "p8", "p10"],
        "held_out": ["p4", "p9"],
    }


def test_few_prompts_are_all_trained_on():
    assert split_prompts(["a", "b", "a"], None) == {"train": ["a", "b"], "held_out": []}


def test_held_out_prompts_are_never_trained_on():
    assert split_prompts(["a", "b"], ["b", "c"]) == {"train": ["a"], "held_out": ["b", "c"]}


def test_each_episode_has_a_copy_of_the_object():
    given = Steps({"done": True})
    make = as_environment(given, ["a"])
    first, second = make(), make()
    first._inner.answers.clear()
    assert len(second._inner.answers) == len(given.answers) == 1


def test_a_class_or_a_function_makes_one_for_each_episode(fakes):
    assert isinstance(as_environment(fakes.Talk)(), fakes.Talk)
    assert isinstance(as_environment(lambda: fakes.Talk("Hi"))(), fakes.Talk)
    assert isinstance(as_environment(fakes.Talk("Hi"))(), Environment)


def test_what_is_no_environment_is_refused():
    with pytest.raises(ConfigError, match="environment: str is no environment"):
        as_environment("order_desk")


def test_what_cannot_be_copied_is_refused_with_a_way_out():
    inner = Steps()
    inner.lock = __import__("threading").Lock()
    with pytest.raises(ConfigError, match="Give a class or a function that makes one"):
        as_environment(inner)
