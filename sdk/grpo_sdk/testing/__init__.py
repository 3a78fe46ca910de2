"""For plugin authors: contract tests to inherit, backends without a model, trajectories to score.

A contract is a class of tests that says what the host relies on. Inherit from it in a class whose
name begins with ``Test``; what fails says how to mend it. The framework brings fixtures to pytest:
``grpo_scripted_backend``, ``grpo_token_backend`` and ``grpo_plugin_host``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_sdk.lazy import lazy_names

if TYPE_CHECKING:
    from grpo_sdk.testing.backend_contract import BackendContract
    from grpo_sdk.testing.environment_contract import EnvironmentContract
    from grpo_sdk.testing.group_reward_contract import GroupRewardContract
    from grpo_sdk.testing.plugin_contract import PluginContract
    from grpo_sdk.testing.reward_contract import RewardContract
    from grpo_sdk.testing.scripted import ScriptedBackend
    from grpo_sdk.testing.token_backend import TokenBackend
    from grpo_sdk.testing.tool_contract import ToolContract
    from grpo_sdk.testing.trajectories import make_trajectory

_MODULE_OF = {
    "BackendContract": "backend_contract",
    "EnvironmentContract": "environment_contract",
    "GroupRewardContract": "group_reward_contract",
    "PluginContract": "plugin_contract",
    "RewardContract": "reward_contract",
    "ScriptedBackend": "scripted",
    "TokenBackend": "token_backend",
    "ToolContract": "tool_contract",
    "make_trajectory": "trajectories",
}

__all__ = [
    "BackendContract",
    "EnvironmentContract",
    "GroupRewardContract",
    "PluginContract",
    "RewardContract",
    "ScriptedBackend",
    "TokenBackend",
    "ToolContract",
    "make_trajectory",
]


__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
