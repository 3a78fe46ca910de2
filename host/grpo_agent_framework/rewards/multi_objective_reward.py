"""Multi-objective rewards under the usage guide's names; they are those of ``grpo_rewards``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_host.models.sentence import installed_embedder
from grpo_rewards import presets
from grpo_rewards.action_orientation import ActionOrientationReward
from grpo_rewards.empathy import EmpathyReward
from grpo_rewards.length import LengthReward
from grpo_rewards.multi_objective import Component, MultiObjectiveReward
from grpo_rewards.professionalism import ProfessionalismReward
from grpo_rewards.safety import SafetyReward
from grpo_rewards.similarity import SimilarityReward
from grpo_sdk.rewards import Reward, RewardResult, score_messages

__all__ = [
    "ActionOrientedRewardComponent",
    "EmpathyRewardComponent",
    "LengthRewardComponent",
    "MultiObjectiveRewardFunction",
    "ProfessionalismRewardComponent",
    "SafetyRewardComponent",
    "SimilarityRewardComponent",
    "TurnsScore",
    "create_customer_service_reward",
    "create_sales_reward",
    "create_technical_support_reward",
    "create_tutoring_reward",
]


@dataclass(frozen=True, slots=True)
class TurnsScore(RewardResult):
    """A result whose value is also called its score."""

    @property
    def score(self) -> float:
        """The value."""
        return self.value


async def _score_turns(
    reward: Reward, turns: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None
) -> TurnsScore:
    result = await score_messages(reward, turns, context)
    return TurnsScore(result.value, result.parts, result.explanation)


class _RewardComponent(Component):
    async def compute_reward(
        self, turns: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None
    ) -> TurnsScore:
        """The score of messages (dicts of role and content), without the weight."""
        return await _score_turns(self, turns, context)


class EmpathyRewardComponent(_RewardComponent):
    """The reward ``empathy``: word lists."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__("empathy", EmpathyReward(), weight)


class ProfessionalismRewardComponent(_RewardComponent):
    """The reward ``professionalism``: word lists and form."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__("professionalism", ProfessionalismReward(), weight)


class ActionOrientedRewardComponent(_RewardComponent):
    """The reward ``action_orientation``: word lists."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__("action_orientation", ActionOrientationReward(), weight)


class SimilarityRewardComponent(_RewardComponent):
    """The reward ``similarity``, to ``expected_responses`` or to the task's own."""

    def __init__(self, expected_responses: Sequence[str] = (), weight: float = 1.0, **options: Any) -> None:
        options = {"embedder": installed_embedder(), **options}
        reward = SimilarityReward(expected_responses=expected_responses, **options)
        super().__init__("similarity", reward, weight)


class SafetyRewardComponent(_RewardComponent):
    """The reward ``safety``."""

    def __init__(self, weight: float = 1.0, **options: Any) -> None:
        super().__init__("safety", SafetyReward(**{"embedder": installed_embedder(), **options}), weight)


class LengthRewardComponent(_RewardComponent):
    """The reward ``length``; its options are in words."""

    def __init__(self, weight: float = 1.0, **options: int) -> None:
        super().__init__("length", LengthReward(**options), weight)


class MultiObjectiveRewardFunction(MultiObjectiveReward):
    """``MultiObjectiveReward``, which can also score a list of messages."""

    async def compute_reward(
        self, turns: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None
    ) -> TurnsScore:
        """The score of messages (dicts of role and content), without the weight."""
        return await _score_turns(self, turns, context)


def create_customer_service_reward(
    expected_responses: Sequence[str] | None = None, weight: float = 1.0
) -> MultiObjectiveRewardFunction:
    """The reward ``customer_service``."""
    return _preset(presets.customer_service, expected_responses, weight)


def create_technical_support_reward(
    expected_responses: Sequence[str] | None = None, weight: float = 1.0
) -> MultiObjectiveRewardFunction:
    """The reward ``technical_support``."""
    return _preset(presets.technical_support, expected_responses, weight)


def create_sales_reward(
    expected_responses: Sequence[str] | None = None, weight: float = 1.0
) -> MultiObjectiveRewardFunction:
    """The reward ``sales``."""
    return _preset(presets.sales, expected_responses, weight)


def create_tutoring_reward(
    expected_responses: Sequence[str] | None = None, weight: float = 1.0
) -> MultiObjectiveRewardFunction:
    """The reward ``tutoring``."""
    return _preset(presets.tutoring, expected_responses, weight)


def _preset(
    make: Callable[..., MultiObjectiveReward], expected: Sequence[str] | None, weight: float
) -> MultiObjectiveRewardFunction:
    reward = make(expected_responses=expected or (), embedder=installed_embedder())
    return MultiObjectiveRewardFunction(reward.components, weight=weight)
