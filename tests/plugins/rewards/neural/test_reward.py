"""The learned reward before it has learned anything."""

from __future__ import annotations

import json

import pytest

from grpo_rewards.embedders import HashingEmbedder
from grpo_rewards.neural import NeuralReward, NotTrainedError
from grpo_rewards.plugin import grpo_rewards
from grpo_sdk import ConfigError, assistant, user
from grpo_sdk.testing import RewardContract, make_trajectory

TURNS = [
    {"role": "user", "content": "I need help"},
    {"role": "assistant", "content": "I'd be happy to help!"},
]


def untrained(**options):
    return NeuralReward(embedder="hashing", **options)


class TestUntrainedButNeutral(RewardContract):
    def make(self):
        return untrained(unready="neutral")


def test_it_is_offered_as_a_reward():
    assert grpo_rewards()["neural"] is NeuralReward


def test_without_feedback_it_refuses_to_guess():
    reward = untrained()
    assert not reward.ready
    assert reward.held_out_error is None
    with pytest.raises(NotTrainedError, match="it has 0 of the 40 feedbacks that it needs"):
        reward.score(make_trajectory("Hello."))


def test_with_too_little_feedback_it_says_how_much_is_missing():
    reward = untrained(min_feedback=30)
    for _ in range(7):
        reward.add_trajectory_feedback(TURNS, 0.9, {"topic": "help"})
    report = reward.update()
    assert report["reason"] == "it has 7 of the 30 feedbacks that it needs"
    assert (report["ready"], report["feedback"], report["updates"]) == (False, 7, 0)


async def test_the_host_records_the_refusal():
    from grpo_host.rollouts.scoring import RewardSet, WeightedReward

    rewards = RewardSet([WeightedReward("neural", untrained())])
    [scored] = await rewards.score([make_trajectory("Hello.")])
    assert scored.reward is None
    assert "NotTrainedError: the reward neural is not trained" in scored.rewards["neural"].error


def test_neutral_is_the_same_for_every_conversation_and_says_why(caplog):
    reward = untrained(unready="neutral")
    results = [reward.score(make_trajectory(text)) for text in ("Hello, I can help.", "no")]
    assert [result.value for result in results] == [0.5, 0.5]
    assert "it has 0 of the 40 feedbacks" in results[0].explanation
    assert len([record for record in caplog.records if "not trained" in record.message]) == 1


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_that_is_none_is_refused(score):
    with pytest.raises(ValueError, match="give a number from 0 to 1"):
        untrained().add_trajectory_feedback(TURNS, score)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (TURNS[:1], "no message of the assistant"),
        ([], "no message of the assistant"),
        ([{"role": "bot", "content": "Hi"}], "message 0 has the role 'bot'"),
        ([{"role": "assistant", "content": 3}], "message 0 has the content 3"),
        ("Hello", "messages are a list of dicts"),
    ],
)
def test_turns_that_are_no_conversation_are_refused(turns, said):
    with pytest.raises(ValueError, match=said):
        untrained().add_trajectory_feedback(turns, 0.5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"embedding_dim": 0}, "embedding_dim is 0"),
        ({"update_frequency": 0}, "update_frequency is 0"),
        ({"min_feedback": 3}, "min_feedback is 3; give at least 20"),
        ({"buffer_size": 30}, "buffer_size is 30; give at least 40"),
        ({"unready": "guess"}, "unready is"),
        ({"embedder": "bert"}, "embedder is"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        NeuralReward(**{"embedder": "hashing", **wrong})


def test_vectors_of_sentences_are_the_default_if_there_is_a_sentence_model():
    assert NeuralReward().report()["embedder"] == "hashing-512"
    assert NeuralReward(sentence_model=HashingEmbedder(64)).report()["embedder"] == "hashing-64"


def test_vectors_of_sentences_without_a_sentence_model_are_refused():
    with pytest.raises(ConfigError, match="neural: embedder: sentence needs a sentence model"):
        NeuralReward(embedder="sentence")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04 a pickle, say",
        (2).to_bytes(8, "little") + b"{}",
        (30).to_bytes(8, "little") + json.dumps({"__metadata__": {"format": 1}}).encode().ljust(30),
    ],
)
def test_a_file_that_is_no_learned_reward_is_an_error_at_once(tmp_path, content):
    (tmp_path / "reward.safetensors").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"is no learned reward .* Give a file that NeuralReward\.save wrote"
    ):
        untrained(path=str(tmp_path / "reward.safetensors"))


def test_a_file_that_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises(ConfigError, match="is no learned reward"):
        untrained(path=str(tmp_path / "none.safetensors"))


def feedback_file(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": [user("a"), assistant("b")]}, "it has no 'score'"),
        ({"messages": [user("a"), assistant("b")], "score": 2}, "give a number from 0 to 1"),
        ({"messages": [user("a")], "score": 1}, "no message of the assistant"),
        ([1], "list indices"),
    ],
)
def test_a_line_that_is_no_feedback_is_named_at_once(tmp_path, row, problem):
    path = feedback_file(tmp_path / "feedback.jsonl", row)
    with pytest.raises(ConfigError, match=rf"feedback\.jsonl:1: .*{problem}"):
        NeuralReward(embedder="hashing", feedback=path)


def test_a_file_of_feedback_that_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"the feedback in .*none\.jsonl cannot be read"):
        NeuralReward(embedder="hashing", feedback=tmp_path / "none.jsonl")
