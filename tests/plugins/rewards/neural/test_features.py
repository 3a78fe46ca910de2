"""What the learned reward reads of a conversation."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_rewards.embedders import HashingEmbedder
from grpo_rewards.neural.features import COUNTS, answers, counts, feature_rows, last_question
from grpo_sdk import assistant, tool_call, tool_result, user

CALL = tool_call("lookup", "{}", "call_1")
EMBEDDER = HashingEmbedder(64)
TALK = [
    user("Where is it?"),
    assistant("", [CALL]),
    tool_result(CALL, "shipped"),
    assistant("It was sent today."),
    user("Thanks!"),
]


def count(name, text, question=""):
    return counts([text], question)[COUNTS.index(name)]


def test_it_reads_what_the_assistant_said_and_what_that_answered():
    assert answers(TALK) == ["It was sent today."]
    assert last_question(TALK) == "Where is it?"


def test_words_of_tools_are_not_read():
    other = [*TALK[:2], tool_result(CALL, "lost and broken"), *TALK[3:]]
    rows = feature_rows([TALK, other], EMBEDDER)
    assert (rows[0] == rows[1]).all()


def test_of_a_long_conversation_the_last_answers_are_read():
    talk = [message for n in range(50) for message in (user(f"question {n}"), assistant(f"answer {n}"))]
    assert answers(talk) == [f"answer {n}" for n in range(42, 50)]
    assert last_question(talk) == "question 49"


def test_rows_have_vectors_and_counts():
    rows = feature_rows([TALK, [user("Hi")], []], EMBEDDER)
    assert rows.shape == (3, 2 * 64 + len(COUNTS))
    assert np.linalg.norm(rows[0, :64]) == pytest.approx(1.0)
    assert not rows[1, :64].any()


@pytest.mark.parametrize("text", ["", " ", "?!…", "👋🏽 你好", "a" * 50_000, "word " * 20_000, "\ud800"])
def test_odd_texts_have_finite_features(text):
    assert np.isfinite(feature_rows([[user("Hello?"), assistant(text)]], EMBEDDER)).all()


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("log words", "I will send it today.", "No."),
        ("questions a sentence", "Which one? This?", "This one."),
        ("exclamations a sentence", "Stop! Now!", "Stop now."),
        ("capitals", "STOP IT", "stop it"),
        ("distinct words", "I will send it", "no no no no"),
        ("I", "I'll check it for you", "It will be checked for you"),
        ("we", "We'll check our stock", "I'll check the stock"),
        ("you", "you and your order", "me and this order"),
        ("negations", "I can't and won't do nothing", "I can and will do it"),
        ("numbers", "In 10 minutes", "In a while"),
        ("fluency", "I will look into that for you now", "order order order order"),
    ],
)
def test_counts_count_what_they_are_called(name, more, less):
    assert count(name, more) > count(name, less)


def test_words_taken_up_from_the_question_are_counted():
    assert count("words taken up", "Your kettle is on its way", "Where is my kettle?") > 0
    assert count("words taken up", "Have a nice day", "Where is my kettle?") == 0
