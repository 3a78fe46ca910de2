"""The guide's neural reward."""

from __future__ import annotations

import pytest

from grpo_agent_framework.training.neural_reward_trainer import (
    NotTrainedError,
    create_neural_reward_function,
)
from grpo_sdk.testing import make_trajectory

TURNS = [
    {"role": "user", "content": "I need help"},
    {"role": "assistant", "content": "I'd be happy to help!"},
]


def test_the_guides_arguments_make_a_reward_that_takes_feedback():
    reward = create_neural_reward_function(
        embedding_dim=128, hidden_dim=256, weight=0.3, update_frequency=50, embedder="hashing"
    )
    reward.add_trajectory_feedback(turns=TURNS, reward_score=0.9, context={"topic": "customer_service"})
    assert reward.weight == 0.3
    assert reward.report()["feedback"] == 1


def test_until_it_has_learned_it_is_neutral():
    reward = create_neural_reward_function(weight=0.3, embedder="hashing")
    assert not reward.ready
    assert reward.score(make_trajectory("Hello.")).value == 0.5


def test_a_score_before_it_has_learned_can_be_an_error():
    reward = create_neural_reward_function(unready="fail", embedder="hashing")
    with pytest.raises(NotTrainedError):
        reward.score(make_trajectory("Hello."))
