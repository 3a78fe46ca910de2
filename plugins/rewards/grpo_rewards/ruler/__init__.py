"""RULER: the trajectories of a group judged against each other by a language model."""

from grpo_rewards.ruler.judge import JudgeError
from grpo_rewards.ruler.prompt import CUSTOMER_SERVICE_RUBRIC, DEFAULT_RUBRIC
from grpo_rewards.ruler.reward import RulerReward
from grpo_rewards.ruler.usage import JudgeUsage

__all__ = ["CUSTOMER_SERVICE_RUBRIC", "DEFAULT_RUBRIC", "JudgeError", "JudgeUsage", "RulerReward"]
