"""Turn a conversation into numbers: the assistant's messages, the question, and counts of form."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_rewards.texts import fluency, words
from grpo_sdk.embedder import Embedder
from grpo_sdk.messages import Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

LAST_ANSWERS = 8
"""How many of the assistant's last messages are read."""
_LONGEST = 4000
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)|\n+")
_MYSELF = frozenset(words("i i'm i'll i've i'd me my"))
_WE = frozenset(words("we we're we'll we've us our"))
_YOU = frozenset(words("you you're you'll you've your yours"))
_NEGATIONS = frozenset(words("no not never nothing nobody none cannot without neither nor"))

COUNTS = (
    "log words",
    "log words a sentence",
    "questions a sentence",
    "exclamations a sentence",
    "capitals",
    "distinct words",
    "words taken up",
    "I",
    "we",
    "you",
    "negations",
    "numbers",
    "fluency",
    "log messages",
    "nearness to the question",
)
"""What ``counts`` gives, in its order; pronouns and negations are read in English only."""


def answers(messages: Sequence[Message]) -> list[str]:
    """What the assistant said last, message by message, without those that only call tools."""
    said = [m["content"][:_LONGEST] for m in messages if m["role"] == "assistant" and m["content"].strip()]
    return said[-LAST_ANSWERS:]


def last_question(messages: Sequence[Message]) -> str:
    """The user's message that the assistant's last one answers; empty if there is none."""
    heard = ""
    question = ""
    for message in messages:
        if message["role"] == "user":
            heard = message["content"][:_LONGEST]
        elif message["role"] == "assistant" and message["content"].strip():
            question = heard
    return question or heard


def feature_rows(conversations: Sequence[Sequence[Message]], embedder: Embedder) -> Rows:
    """One row per conversation: the mean of its answers' vectors, its question's vector, the counts."""
    import numpy as np

    said = [answers(messages) for messages in conversations]
    asked = [last_question(messages) for messages in conversations]
    vectors = embedder.embed([*asked, *(text for texts in said for text in texts)])
    width = embedder.dimensions
    rows = np.zeros((len(conversations), 2 * width + len(COUNTS)), np.float32)
    position = len(asked)
    for index, texts in enumerate(said):
        if texts:
            mean = vectors[position : position + len(texts)].mean(axis=0)
            length = float(np.linalg.norm(mean))
            rows[index, :width] = mean / length if length else mean
        position += len(texts)
        rows[index, width : 2 * width] = vectors[index]
        nearness = float(rows[index, :width] @ vectors[index])
        rows[index, 2 * width :] = [*counts(texts, asked[index]), nearness]
    return rows


def counts(texts: Sequence[str], question: str) -> list[float]:
    """The counts of ``COUNTS`` but the last."""
    text = "\n".join(texts).replace("\u2019", "'")
    spoken = words(text)
    total = max(1, len(spoken))
    sentences = max(1, sum(bool(part.strip()) for part in _SENTENCE.split(text)))
    letters = [character for character in text if character.isalpha()]
    content = {word for word in words(question) if len(word) > 3}
    return [
        math.log1p(len(spoken)),
        math.log1p(len(spoken) / sentences),
        text.count("?") / sentences,
        text.count("!") / sentences,
        sum(character.isupper() for character in letters) / max(1, len(letters)),
        len(set(spoken)) / total,
        len(content & set(spoken)) / max(1, len(content)),
        sum(word in _MYSELF for word in spoken) / total,
        sum(word in _WE for word in spoken) / total,
        sum(word in _YOU for word in spoken) / total,
        sum(word in _NEGATIONS or word.endswith("n't") for word in spoken) / total,
        sum(any(map(str.isdigit, word)) for word in spoken) / total,
        fluency(text) if spoken else 0.0,
        math.log1p(len(texts)),
    ]
