"""The word-list rewards rank texts as a person would, and do not pay for stuffing."""

from __future__ import annotations

import pytest

from grpo_rewards.plugin import grpo_rewards
from grpo_sdk import assistant, tool_call, tool_result, user
from grpo_sdk.testing import make_trajectory

WORD_LISTS = ("empathy", "professionalism", "action_orientation", "diagnosis", "discovery", "guidance")

# From best to worst, as a person would rank them.
RANKED = {
    "empathy": (
        "I'm so sorry about the delay. I understand how frustrating it is, and I appreciate your patience.",
        "I'm sorry to hear that. I understand that you waited for a long time.",
        "I'm sorry to hear that. Your order is on its way to you.",
        "Your order is on its way and it will be there on Friday.",
        "Your order is late. That is not my problem, so please calm down and wait.",
    ),
    "professionalism": (
        "Thank you for your patience. I would be happy to assist you with your order, please wait a moment.",
        "Thank you for writing. It is on its way and will be there on Friday.",
        "It is on its way and you will have it on Friday.",
        "its on the way and you will have it on friday ok",
        "yeah dude its gonna be there on friday lol, whatever",
    ),
    "action_orientation": (
        "I will check your order right away. Could you give me your order number, please?",
        "I will check your order and see where it is.",
        "I can see that it is late and that you are waiting for it.",
        "Orders are sometimes late, and that is how it is with us.",
        "I cannot do this for you, and it is not possible.",
    ),
    "diagnosis": (
        "Which version do you use, and what do you see in the log? This error usually means that the token"
        " has expired. First log out, then clear the cache, and let me know whether it works.",
        "That error usually means that the token has expired, so please log out and then in again.",
        "Please restart it and see how it goes for you.",
        "Errors of this kind are a pity, and we are sorry that it is so.",
        "It works for me, so I have no idea what you broke there.",
    ),
    "discovery": (
        "What would you use it for, and how many people are in your team? The basic plan lets you share"
        " files and costs less. Would you like a free trial?",
        "What are you looking for in a phone? This one includes a charger, so you can use it at once.",
        "The basic plan includes ten seats and a charger for all of you.",
        "It is a phone, and we have it here in the shop for you.",
        "Act now, it is guaranteed and you would be stupid to wait, trust me.",
    ),
    "guidance": (
        "Good start! What do you think happens to the sign when we move the three? Try it first, because"
        " both sides must stay equal.",
        "You are close: look at the sign, because both sides must stay equal.",
        "Both sides of it must stay equal because it is an equation.",
        "It is an equation with one unknown, and you have a line of it here.",
        "The answer is seven, obviously, and you should know it by now.",
    ),
}


def value(name: str, text: str) -> float:
    return grpo_rewards()[name]().score(make_trajectory(text)).value


@pytest.mark.parametrize("name", WORD_LISTS)
def test_texts_are_ranked_as_a_person_would(name):
    values = [value(name, text) for text in RANKED[name]]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[1] > values[2]
    assert values[0] >= 0.7
    assert values[-1] <= 0.25


@pytest.mark.parametrize("name", WORD_LISTS)
@pytest.mark.parametrize(
    "text",
    [
        "sorry sorry sorry sorry sorry sorry sorry sorry",
        "sorry understand frustrating appreciate please thank check refund today",
        "I will check. " * 40,
        "I'm sorry, I understand. " * 40,
        "refund refund refund refund please please please please",
        "asdf qwer zxcv asdf qwer zxcv asdf qwer zxcv",
        "Sorry!",
        "",
    ],
)
def test_degenerate_text_scores_low(name, text):
    assert value(name, text) < 0.3


@pytest.mark.parametrize("name", WORD_LISTS)
def test_a_phrase_repeated_in_one_message_counts_once(name):
    once = "I'm sorry about this, and I will check what happened with your order, please wait for me."
    twice = f"{once} I'm sorry, I will, please."
    assert value(name, twice) <= value(name, once) + 1e-9


@pytest.mark.parametrize("name", WORD_LISTS)
def test_saying_the_same_message_again_earns_nothing(name):
    said = RANKED[name][0]
    parrot = make_trajectory([user("Hi"), assistant(said), user("And now?"), assistant(said)])
    assert grpo_rewards()[name]().score(parrot).value == pytest.approx(value(name, said) / 2)


@pytest.mark.parametrize("name", WORD_LISTS)
def test_the_score_is_the_mean_over_messages(name):
    good, bad = RANKED[name][0], RANKED[name][-1]
    both = make_trajectory([user("Hi"), assistant(good), user("And?"), assistant(bad)])
    expected = (value(name, good) + value(name, bad)) / 2
    assert grpo_rewards()[name]().score(both).value == pytest.approx(expected, abs=0.05)


def test_messages_that_only_call_tools_do_not_lower_the_mean():
    call = tool_call("lookup", "{}", "call_1")
    text = RANKED["empathy"][0]
    with_tool = make_trajectory(
        [user("Hi"), assistant("", [call]), tool_result(call, "found"), assistant(text)]
    )
    assert grpo_rewards()["empathy"]().score(with_tool).value == value("empathy", text)


def test_a_typographic_apostrophe_counts_as_an_apostrophe():
    plain = "I'll check your order right away, and let you know what I find."
    assert value("action_orientation", plain.replace("'", "\u2019")) == value("action_orientation", plain)


def test_a_negated_promise_is_no_promise():
    promised = value("action_orientation", "I can help you with that order of yours today.")
    refused = value("action_orientation", "I can't help you with that order of yours today.")
    assert refused < promised / 2


def test_parts_and_faults_are_reported():
    result = grpo_rewards()["empathy"]().score(make_trajectory(RANKED["empathy"][-1]))
    assert set(result.parts) == {"apology", "understanding", "feelings", "care", "fluency", "faults"}
    assert result.parts["faults"] == 2.0
    assert result.explanation.startswith("empathy ")
