"""The built-in environments, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_environments.arithmetic.environment import ArithmeticEnvironment
from grpo_environments.bridges.agentdojo import AgentDojoEnvironment
from grpo_environments.bridges.bfcl import BfclEnvironment
from grpo_environments.bridges.gymnasium import GymnasiumEnvironment
from grpo_environments.bridges.openenv import OpenEnvEnvironment
from grpo_environments.bridges.reasoning_gym import ReasoningGymEnvironment
from grpo_environments.bridges.tau2 import Tau2Environment
from grpo_environments.bridges.textarena import TextArenaEnvironment
from grpo_environments.bridges.verifiers import VerifiersEnvironment
from grpo_environments.curricula import DropSolved, RaiseLevel
from grpo_environments.dataset.environment import DatasetEnvironment
from grpo_environments.order_desk.environment import OrderDeskEnvironment
from grpo_environments.prompts import PromptsEnvironment
from grpo_environments.support_desk.environment import SupportDeskEnvironment
from grpo_sdk.hooks import CurriculumFactory, EnvironmentFactory, hookimpl


@hookimpl
def grpo_environments() -> Mapping[str, EnvironmentFactory]:
    return {
        "support_desk": SupportDeskEnvironment,
        "order_desk": OrderDeskEnvironment,
        "arithmetic": ArithmeticEnvironment,
        "prompts": PromptsEnvironment,
        "dataset": DatasetEnvironment,
        "bfcl": BfclEnvironment,
        "agentdojo": AgentDojoEnvironment,
        "reasoning_gym": ReasoningGymEnvironment,
        "gymnasium": GymnasiumEnvironment,
        "tau2": Tau2Environment,
        "textarena": TextArenaEnvironment,
        "openenv": OpenEnvEnvironment,
        "verifiers": VerifiersEnvironment,
    }


@hookimpl
def grpo_curricula() -> Mapping[str, CurriculumFactory]:
    return {"raise_level": RaiseLevel, "drop_solved": DropSolved}
