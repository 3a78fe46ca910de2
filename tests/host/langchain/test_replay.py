"""Demonstrations that are played through an app."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import (
    Environment,
    Observation,
    Sampling,
    StepResult,
    Task,
    assistant,
    system,
    tool_call,
    tool_result,
    user,
)
from grpo_sdk.errors import ConfigError
from grpo_sdk.testing import ScriptedBackend

done: list[str] = []
"""What the tool really did."""


@tool
def refund(order: str) -> str:
    """Refund an order."""
    done.append(order)
    return f"{order} is refunded"


@tool
async def refund_later(order: str) -> str:
    """Refund an order, later."""
    done.append(order)
    return f"{order} is refunded"


CALL = tool_call("refund", '{"order": "A12"}', "call_1")
DIALOGUE = [
    user("Refund A12."),
    assistant("", [CALL]),
    tool_result(CALL, "A12 is refunded"),
    assistant("It is done."),
    user("Thanks!"),
    assistant("You are welcome."),
]


class Talk(Environment):
    def tasks(self, split):
        return []

    async def reset(self, task, *, seed):
        self.lines = ["Thanks!"]
        return Observation([user("Refund A12.")])

    async def step(self, action):
        return StepResult([user(self.lines.pop())]) if self.lines else StepResult(done=True)


def desk(model):
    return create_agent(model, [refund, refund_later], system_prompt="Help.", name="desk")


def agent_of(backend, build=desk, *, input=None, context=None):
    renderer = (
        make_renderer(backend.tokenizer, backend.model) if "token_ids" in backend.capabilities else None
    )
    agent = Agent(backend, renderer, sampling=Sampling(10_000), limits=AgentLimits(turns=5))
    app = App("test:build", None, build, frozenset({"model"}))
    return AppAgent(agent, app, AppMapping(input, context or {}))


@pytest.mark.parametrize("name", ["refund", "refund_later"])
async def test_a_demonstration_has_the_tokens_of_the_episode_in_which_it_was_said(tokens, name):
    call = tool_call(name, '{"order": "A12"}', "call_1")
    dialogue = [DIALOGUE[0], assistant("", [call]), tool_result(call, "A12 is refunded"), *DIALOGUE[3:]]
    said = iter(
        [
            f'<tool_call>{{"name": "{name}", "arguments": {{"order": "A12"}}}}</tool_call>',
            "It is done.",
            "You are welcome.",
        ]
    )
    backend = tokens(lambda _: next(said))
    agent = agent_of(backend)
    request = EpisodeRequest(Task("t"))
    trajectory = await run_episode(agent, Talk, request, environment_name="talk", seconds=30.0)
    assert trajectory.error is None
    done.clear()
    replayed = await agent.replay(dialogue, ())
    assert done == []
    assert [(item.ids, item.mask) for item in replayed] == [
        (item.ids, item.mask) for item in trajectory.ledger.sequences
    ]
    assert [item.role for item in replayed] == ["desk"]
    assert refund.invoke({"order": "B1"}) == "B1 is refunded"  # tools are as ever afterwards


async def test_what_was_recorded_of_the_app_is_replayed_with_its_system_prompt_once(tokens):
    dialogue = [system("Help."), *DIALOGUE]  # as its model heard it
    agent = agent_of(tokens(str))

    [recorded] = await agent.replay(dialogue, ())
    [demonstrated] = await agent.replay(DIALOGUE, ())

    assert recorded.ids == demonstrated.ids


async def test_a_system_message_that_the_app_does_not_say_itself_is_told_to_it(tokens):
    agent = agent_of(tokens(str))

    [sequence] = await agent.replay([system("Be brief."), *DIALOGUE], ())

    said = agent.backend.tokenizer.decode(sequence.ids)
    assert [said.count(text) for text in ("Help.", "Be brief.")] == [1, 1]


async def test_what_the_task_would_tell_is_empty(tokens):
    def build(model):
        seen.append(1)
        return RunnableLambda(lambda given: given["orders"] or model.invoke(given["messages"]).text)

    seen: list[int] = []
    agent = agent_of(tokens(str), build, input={"orders": "task.orders.mine", "messages": "messages"})
    [sequence] = await agent.replay([user("Hi"), assistant("Hello.")], ())
    assert sequence.sampled > 0


@pytest.mark.parametrize(
    ("build", "dialogue", "says"),
    [
        (
            desk,
            [*DIALOGUE[:2], *DIALOGUE[3:]],
            "the demonstration has no result of its call call_1 of refund",
        ),
        (desk, DIALOGUE[:3], "the app asks its model once more than the demonstration has answers"),
        (
            lambda model: RunnableLambda(lambda given: "Hello."),
            DIALOGUE,
            "the app answers after 0 of the 2 messages that its model says in the demonstration",
        ),
        (lambda model: RunnableLambda(lambda given: 1 / 0), DIALOGUE, "division by zero"),
    ],
    ids=["no result", "too few", "too many", "raises"],
)
async def test_a_demonstration_that_the_app_cannot_have_played_is_an_error(tokens, build, dialogue, says):
    with pytest.raises(ConfigError) as error:
        await agent_of(tokens(str), build).replay(dialogue, ())
    assert f"training.warm_start: the app cannot play the demonstration of 'Refund A12.': {says}" in str(
        error.value
    )


async def test_a_demonstration_needs_token_ids():
    with pytest.raises(ConfigError, match="the backend does not speak token ids"):
        await agent_of(ScriptedBackend()).replay(DIALOGUE, ())
