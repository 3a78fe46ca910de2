"""A reward that is learned from feedback: scores that people or other rewards gave to conversations."""

from grpo_rewards.neural.reward import NeuralReward, NotTrainedError

__all__ = ["NeuralReward", "NotTrainedError"]
