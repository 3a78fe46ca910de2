"""A reward that learns from feedback on conversations."""

from __future__ import annotations

from typing import Any

from grpo_host.models.sentence import installed_embedder
from grpo_rewards.neural import NeuralReward, NotTrainedError

__all__ = ["NeuralReward", "NotTrainedError", "create_neural_reward_function"]


def create_neural_reward_function(
    embedding_dim: int = 128,
    hidden_dim: int = 256,
    weight: float = 0.3,
    update_frequency: int = 50,
    **options: Any,
) -> NeuralReward:
    """A ``NeuralReward``; ``options`` are its own.

    Until it is ``ready`` it scores 0.5 for every conversation (``unready="neutral"``), which changes
    no comparison, so that it can be combined with others from the first step on;
    ``unready="fail"`` makes such a score an error.
    """
    reward = NeuralReward(
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        update_frequency=update_frequency,
        **{"unready": "neutral", "sentence_model": installed_embedder(), **options},
    )
    reward.weight = weight
    return reward
