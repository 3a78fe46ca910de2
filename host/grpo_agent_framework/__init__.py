"""The usage guide's import paths and names, on top of the host.

docs/guide-names.md says where each of them lives. Importing this loads nothing heavy: names are
resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_sdk.lazy import lazy_names

if TYPE_CHECKING:
    from grpo_agent_framework.core.agent import Agent
    from grpo_agent_framework.core.computational_engine import (
        ComputationalEngine,
        create_computational_engine,
    )
    from grpo_agent_framework.core.environment import Environment
    from grpo_agent_framework.core.multiturn_agent import DialogueDatabase, MultiTurnAgent
    from grpo_agent_framework.rewards.multi_objective_reward import (
        ActionOrientedRewardComponent,
        EmpathyRewardComponent,
        MultiObjectiveRewardFunction,
        ProfessionalismRewardComponent,
        create_customer_service_reward,
        create_sales_reward,
        create_technical_support_reward,
        create_tutoring_reward,
    )
    from grpo_agent_framework.rewards.ruler_reward import (
        RulerReward,
        create_customer_service_ruler,
    )
    from grpo_agent_framework.training.distributed_trainer import (
        DistributedConfig,
        DistributedGRPOTrainer,
        TrainingConfig,
    )
    from grpo_agent_framework.training.neural_reward_trainer import (
        NeuralReward,
        create_neural_reward_function,
    )
    from grpo_agent_framework.utils.cache import CacheService
    from grpo_agent_framework.utils.monitoring import MonitoringService

_HOME = {
    "core.agent": "Agent",
    "core.computational_engine": "ComputationalEngine create_computational_engine",
    "core.environment": "Environment",
    "core.multiturn_agent": "DialogueDatabase MultiTurnAgent",
    "rewards.multi_objective_reward": "ActionOrientedRewardComponent EmpathyRewardComponent "
    "MultiObjectiveRewardFunction ProfessionalismRewardComponent create_customer_service_reward "
    "create_sales_reward create_technical_support_reward create_tutoring_reward",
    "rewards.ruler_reward": "RulerReward create_customer_service_ruler",
    "training.distributed_trainer": "DistributedConfig DistributedGRPOTrainer TrainingConfig",
    "training.neural_reward_trainer": "NeuralReward create_neural_reward_function",
    "utils.cache": "CacheService",
    "utils.monitoring": "MonitoringService",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "ActionOrientedRewardComponent",
    "Agent",
    "CacheService",
    "ComputationalEngine",
    "DialogueDatabase",
    "DistributedConfig",
    "DistributedGRPOTrainer",
    "EmpathyRewardComponent",
    "Environment",
    "MonitoringService",
    "MultiObjectiveRewardFunction",
    "MultiTurnAgent",
    "NeuralReward",
    "ProfessionalismRewardComponent",
    "RulerReward",
    "TrainingConfig",
    "create_computational_engine",
    "create_customer_service_reward",
    "create_customer_service_ruler",
    "create_neural_reward_function",
    "create_sales_reward",
    "create_technical_support_reward",
    "create_tutoring_reward",
]


__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
