"""The feedback that is kept, and its folds."""

from __future__ import annotations

from collections import Counter

import numpy as np

from grpo_rewards.embedders import HashingEmbedder
from grpo_rewards.neural.feedback import FOLDS, Buffer, assign_folds, fill_rows
from grpo_sdk import assistant, user


def talk(question, answer):
    return [user(question), assistant(answer)]


def buffer_of(*talks, size=1000):
    buffer = Buffer(size)
    for question, answer in talks:
        buffer.add(talk(question, answer), 0.5, {})
    return buffer


def test_the_oldest_is_forgotten():
    buffer = buffer_of(*((f"q{n}", "a") for n in range(10)), size=4)
    assert [item.messages[0]["content"] for item in buffer.items] == ["q6", "q7", "q8", "q9"]
    assert buffer.room == 0


def test_answers_to_one_question_are_in_one_fold():
    items = buffer_of(*((f"q{n % 20}", f"a{n}") for n in range(100))).items
    folds = assign_folds(items, 0)
    fold_of = {}
    for item, fold in zip(items, folds, strict=True):
        assert fold_of.setdefault(item.question, fold) == fold


def test_folds_are_of_like_size():
    items = buffer_of(*((f"q{n % 20}", f"a{n}") for n in range(100))).items
    sizes = Counter(assign_folds(items, 0).tolist())
    assert sorted(sizes) == list(range(FOLDS))
    assert max(sizes.values()) - min(sizes.values()) <= 5


def test_with_few_questions_like_conversations_stay_together():
    items = buffer_of(*(("one question", f"a{n % 30}") for n in range(60))).items
    folds = assign_folds(items, 0)
    assert len(set(folds.tolist())) == FOLDS
    assert (folds[:30] == folds[30:]).all()


def test_folds_are_the_same_for_one_seed_and_differ_between_seeds():
    items = buffer_of(*((f"q{n}", "a") for n in range(40))).items
    assert (assign_folds(items, 1) == assign_folds(items, 1)).all()
    assert (assign_folds(items, 1) != assign_folds(items, 2)).any()


def test_features_are_computed_once_and_texts_are_dropped():
    buffer = buffer_of(("q", "a"))
    asked = []

    class Counting(HashingEmbedder):
        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    embedder = Counting(64)
    fill_rows(list(buffer.items), embedder)
    fill_rows(list(buffer.items), embedder)
    assert asked == ["q", "a"]
    assert buffer.items[0].messages is None
    assert isinstance(buffer.items[0].row, np.ndarray)
