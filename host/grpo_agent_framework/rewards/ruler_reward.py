"""RULER: the answers to one task judged against each other by a language model."""

from __future__ import annotations

from typing import Any

from grpo_host.assembly.judge import judge_from_environment, make_judge
from grpo_host.backends.on_demand import OnDemandBackend
from grpo_rewards.ruler import CUSTOMER_SERVICE_RUBRIC, JudgeError, JudgeUsage, RulerReward
from grpo_sdk.backend import Backend
from grpo_sdk.errors import ConfigError

__all__ = ["JudgeError", "JudgeUsage", "RulerReward", "create_customer_service_ruler"]


def create_customer_service_ruler(
    weight: float = 0.3,
    judge: Backend | str | None = None,
    *,
    rubric: str = CUSTOMER_SERVICE_RUBRIC,
    **options: Any,
) -> RulerReward:
    """A ``RulerReward`` for customer service; ``options`` are its own.

    ``judge`` is a backend that is not started, or a model as LiteLLM names it; None: the one that
    ``$GRPO_JUDGE_MODEL`` names. Raises ``GrpoError`` if there is no judge.
    """
    if judge is None:
        judge = judge_from_environment()
    elif isinstance(judge, str):
        judge = make_judge(judge)
    elif not isinstance(judge, Backend):
        raise ConfigError(
            f"judge: {type(judge).__name__} is no backend. Give one, or a model's name as LiteLLM has it"
        )
    elif not isinstance(judge, OnDemandBackend):
        judge = OnDemandBackend(judge)
    reward = RulerReward(judge, rubric=rubric, **options)
    reward.weight = weight
    return reward
