from __future__ import annotations

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.backends.local_model import installed_plugins
from grpo_host.chat.agent import ChatAgent
from grpo_sdk import Strategy
from grpo_sdk.testing import ScriptedBackend
from grpo_strategies.plugin import grpo_strategies

NAMES = ["plain", "customer_service", "advanced_customer_service", "technical_support", "sales", "tutoring"]


def test_all_are_offered_through_the_entry_point():
    offered = {offer.name for offer in installed_plugins().offers("strategy")}
    assert set(NAMES) == set(grpo_strategies()) <= offered


@pytest.mark.parametrize("name", NAMES)
async def test_a_strategy_reaches_the_model(name):
    shown = []
    backend = ScriptedBackend(script=lambda messages, tools: shown.append(messages[0]["content"]) or "Yes.")

    agent = ChatAgent(Agent(backend), strategy=name)
    context = await agent.start_conversation()
    await agent.respond(context.conversation_id, "Hi")
    made = grpo_strategies()[name]()
    assert isinstance(made, Strategy)
    assert made.name == name
    assert shown == ["Hi" if name == "plain" else f"{made.system_prompt}\n{made.style}"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "plain"])
def test_a_strategy_says_who_it_is_and_is_short_enough_for_a_small_context(name):
    made = grpo_strategies()[name]()
    assert made.system_prompt.startswith("You are a")
    assert made.style
    assert len(made.instructions.split()) < 260


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("customer_service", "company", "agent at Acme."),
        ("advanced_customer_service", "company", "agent at Acme who"),
        ("technical_support", "product", "engineer for Acme."),
        ("sales", "company", "consultant at Acme."),
        ("tutoring", "subject", "tutor for Acme."),
    ],
)
def test_a_strategy_can_be_told_whom_it_works_for(name, option, said):
    factory = grpo_strategies()[name]
    assert said in factory(**{option: " Acme "}).system_prompt
    assert "Acme" not in factory().system_prompt
