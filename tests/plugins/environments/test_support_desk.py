from __future__ import annotations

import pytest

from grpo_environments.support_desk.environment import SupportDeskEnvironment
from grpo_environments.support_desk.topics import NAMES, PRODUCTS, TIMES, TOPIC_NAMES, TOPICS
from grpo_sdk import Environment, assistant
from grpo_sdk.testing import EnvironmentContract

GOOD = "I'm so sorry, that must be frustrating. I will check it right away. What is your order number?"


class TestSupportDesk(EnvironmentContract):
    def make(self) -> Environment:
        return SupportDeskEnvironment()


class TestLongSupportDesk(EnvironmentContract):
    def make(self) -> Environment:
        return SupportDeskEnvironment(
            customer_turns=5, topics=("locked_account",), train_tasks=1000, held_out_tasks=250
        )


async def talk(*said: str, turns: int = 2, topic: str = "late_order"):
    environment = SupportDeskEnvironment(customer_turns=turns, topics=(topic,), train_tasks=1)
    await environment.reset(environment.tasks("train")[0], seed=0)
    results = [await environment.step(assistant(text)) for text in said]
    return [r.messages[0]["content"] if r.messages else "" for r in results], results[-1]


def test_there_are_enough_different_customers():
    environment = SupportDeskEnvironment()
    messages = {task.data["message"] for split in ("train", "held_out") for task in environment.tasks(split)}
    assert len(messages) == 256 + 64
    assert {task.data["topic"] for task in environment.tasks("held_out")} == set(TOPIC_NAMES)


def test_slots_and_templates_of_the_splits_are_disjoint():
    for slots in (NAMES, PRODUCTS, TIMES):
        assert not set(slots[False]) & set(slots[True])
    for topic in TOPICS:
        assert not set(topic.train) & set(topic.held_out)


async def test_a_good_dialogue_is_a_success():
    replies, last = await talk(
        GOOD, "Thank you. I understand, and I've sent a new one; you will have it within two days."
    )
    assert replies[0].count("order number is") == 1
    assert last.done
    assert last.outcome["success"] is True
    assert last.outcome["score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "mood"),
    [
        ("I'm sorry, I understand how upsetting this is.", "appreciate that, but|Kind words"),
        ("I will look into it for you.", "Do you even care|annoying"),
        ("The weather is nice.", "does not help|getting angry|listening"),
        ("I'm sorry, but I can't help you.", "do not accept"),
        ("I'm sorry to hear this. I will look into it.", "What happens next|How long|anything I need"),
    ],
)
async def test_the_customer_reacts_to_what_is_said(first, mood):
    replies, _ = await talk(first)
    assert any(part in replies[0] for part in mood.split("|")), replies[0]


async def test_saying_the_same_again_earns_nothing():
    replies, last = await talk(GOOD, GOOD, GOOD, turns=3)
    assert "You already said that" in replies[1]
    assert last.outcome["success"] is False
    assert last.outcome["score"] == pytest.approx(1 / 3)


async def test_better_messages_satisfy_more():
    texts = ["No.", "I'm sorry about it.", "I'm sorry about it, I will check.", GOOD]
    scores = [(await talk(text, turns=1))[1].outcome["score"] for text in texts]
    assert scores == sorted(set(scores))
    assert scores == pytest.approx([0.0, 0.4, 0.8, 1.0])


async def test_an_unfinished_episode_is_no_success():
    _, last = await talk(GOOD, turns=3)
    assert not last.done


async def test_all_samples_of_a_group_meet_the_same_customer():
    async def begin(seed: int) -> str:
        environment = SupportDeskEnvironment()
        await environment.reset(environment.tasks("train")[3], seed=seed)
        return (await environment.step(assistant("Hm."))).messages[0]["content"]

    assert len({await begin(seed) for seed in range(5)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topics": ("tax",)}, "topics: there is no tax; choose from: late_order, "),
        ({"topics": ()}, "topics: it is empty"),
        ({"customer_turns": 0}, "customer_turns is 0"),
        ({"held_out_tasks": 100_000}, "held_out_tasks is 100000; it must be from 1 to 250"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SupportDeskEnvironment(**options)
