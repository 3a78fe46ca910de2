"""The contract between plugins and the host: what a plugin author and an embedding app import.

Here are the names that most of them need; the rest is imported from its module, such as
``grpo_sdk.trajectory.Ledger`` or ``grpo_sdk.tools.as_tool``. Importing it loads no torch, no engine, no
web server and not even langchain-core: names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_sdk.lazy import lazy_names

if TYPE_CHECKING:
    from grpo_sdk.backend import Backend, Capability, ChatReply, FinishReason, ModelSpec, Sampling, TokenReply
    from grpo_sdk.bundles import ToolBundle, ToolsLostError
    from grpo_sdk.cache import Cache
    from grpo_sdk.curriculum import Curriculum
    from grpo_sdk.embedder import Embedder
    from grpo_sdk.environment import Environment, Observation, StepResult
    from grpo_sdk.errors import (
        ConfigError,
        ContextOverflowError,
        GrpoError,
        MissingExtraError,
        ModelError,
        ProviderError,
    )
    from grpo_sdk.hooks import hookimpl
    from grpo_sdk.messages import (
        Message,
        ToolCall,
        ToolSchema,
        assistant,
        system,
        tool_call,
        tool_result,
        user,
    )
    from grpo_sdk.recording import record_reward
    from grpo_sdk.rewards import GroupReward, Reward, RewardResult, reward, score_messages
    from grpo_sdk.seeds import derive_seed
    from grpo_sdk.strategy import Strategy
    from grpo_sdk.tools import ToolCallError
    from grpo_sdk.trajectory import StopReason, Task, ToolRun, Trajectory, Turn

_HOME = {
    "backend": "Backend Capability ChatReply FinishReason ModelSpec Sampling TokenReply",
    "bundles": "ToolBundle ToolsLostError",
    "cache": "Cache",
    "curriculum": "Curriculum",
    "embedder": "Embedder",
    "environment": "Environment Observation StepResult",
    "errors": "ConfigError ContextOverflowError GrpoError MissingExtraError ModelError ProviderError",
    "hooks": "hookimpl",
    "messages": "Message ToolCall ToolSchema assistant system tool_call tool_result user",
    "recording": "record_reward",
    "rewards": "GroupReward Reward RewardResult reward score_messages",
    "seeds": "derive_seed",
    "strategy": "Strategy",
    "tools": "ToolCallError",
    "trajectory": "StopReason Task ToolRun Trajectory Turn",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Backend",
    "Cache",
    "Capability",
    "ChatReply",
    "ConfigError",
    "ContextOverflowError",
    "Curriculum",
    "Embedder",
    "Environment",
    "FinishReason",
    "GroupReward",
    "GrpoError",
    "Message",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "Observation",
    "ProviderError",
    "Reward",
    "RewardResult",
    "Sampling",
    "StepResult",
    "StopReason",
    "Strategy",
    "Task",
    "TokenReply",
    "ToolBundle",
    "ToolCall",
    "ToolCallError",
    "ToolRun",
    "ToolSchema",
    "ToolsLostError",
    "Trajectory",
    "Turn",
    "assistant",
    "derive_seed",
    "hookimpl",
    "record_reward",
    "reward",
    "score_messages",
    "system",
    "tool_call",
    "tool_result",
    "user",
]


__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
