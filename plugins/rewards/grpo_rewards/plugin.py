"""The built-in rewards, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_rewards import presets
from grpo_rewards.format import FormatReward
from grpo_rewards.length import LengthReward
from grpo_rewards.neural import NeuralReward
from grpo_rewards.outcome import OutcomeReward
from grpo_rewards.recorded import RecordedReward
from grpo_rewards.ruler import RulerReward
from grpo_rewards.safety import SafetyReward
from grpo_rewards.similarity import SimilarityReward
from grpo_rewards.task_success import TaskSuccessReward
from grpo_sdk.hooks import RewardFactory, hookimpl
from grpo_sdk.rewards import EnvironmentReward


def environment() -> EnvironmentReward:
    """The sum of the rewards that the environment gave for the steps of an episode."""
    return EnvironmentReward()


@hookimpl
def grpo_rewards() -> Mapping[str, RewardFactory]:
    return {
        "task_success": TaskSuccessReward,
        "environment": environment,
        "recorded": RecordedReward,
        "outcome": OutcomeReward,
        "format": FormatReward,
        "length": LengthReward,
        **presets.BY_WORDS,
        "similarity": SimilarityReward,
        "safety": SafetyReward,
        "customer_service": presets.customer_service,
        "technical_support": presets.technical_support,
        "sales": presets.sales,
        "tutoring": presets.tutoring,
        "ruler": RulerReward,
        "neural": NeuralReward,
    }
