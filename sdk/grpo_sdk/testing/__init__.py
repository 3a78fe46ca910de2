"""For plugin authors: contract tests to inherit, a scripted backend, trajectories to score.

A contract is a class of tests that says what the host relies on. Inherit from it in a class whose
name begins with ``Test``; the docstring of each test says how to mend what fails it.
"""

from grpo_sdk.testing.backend_contract import BackendContract
from grpo_sdk.testing.environment_contract import EnvironmentContract
from grpo_sdk.testing.reward_contract import GroupRewardContract, RewardContract
from grpo_sdk.testing.scripted import ScriptedBackend
from grpo_sdk.testing.tool_contract import ToolContract
from grpo_sdk.testing.trajectories import make_trajectory

__all__ = [
    "BackendContract",
    "EnvironmentContract",
    "GroupRewardContract",
    "RewardContract",
    "ScriptedBackend",
    "ToolContract",
    "make_trajectory",
]
