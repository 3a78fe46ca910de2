"""The contract between plugins and the host: what a plugin author and an embedding app import.

Importing it loads no torch, no engine, no web server and not even langchain-core: names are
resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_sdk.backend import (
        TRAINABLE,
        Backend,
        Capability,
        ChatReply,
        FinishReason,
        ModelSpec,
        Sampling,
        TokenReply,
    )
    from grpo_sdk.cache import Cache
    from grpo_sdk.embedder import Embedder
    from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation, StepResult
    from grpo_sdk.errors import (
        CapabilityError,
        ConfigError,
        ContextOverflowError,
        GrpoError,
        MissingExtraError,
        ModelError,
        PluginError,
        ProviderError,
        RunError,
    )
    from grpo_sdk.hooks import HOOK_API, hookimpl
    from grpo_sdk.messages import (
        Message,
        ToolCall,
        ToolSchema,
        as_messages,
        assistant,
        system,
        tool_call,
        tool_result,
        user,
    )
    from grpo_sdk.rewards import (
        EnvironmentReward,
        FunctionReward,
        GroupReward,
        Reward,
        RewardResult,
        Score,
        reward,
        score_messages,
    )
    from grpo_sdk.seeds import derive_seed
    from grpo_sdk.strategy import Strategy
    from grpo_sdk.toolbox import Toolbox
    from grpo_sdk.tools import ToolCallError, ToolLike, ToolLimits, as_tool, tool_schema
    from grpo_sdk.trajectory import (
        Ledger,
        RewardRecord,
        StopReason,
        Task,
        TokenSequence,
        ToolRun,
        Trajectory,
        Turn,
    )

_HOME = {
    "backend": "TRAINABLE Backend Capability ChatReply FinishReason ModelSpec Sampling TokenReply",
    "cache": "Cache",
    "embedder": "Embedder",
    "environment": "HELD_OUT TRAIN Environment Observation StepResult",
    "errors": "CapabilityError ConfigError ContextOverflowError GrpoError MissingExtraError "
    "ModelError PluginError ProviderError RunError",
    "hooks": "HOOK_API hookimpl",
    "messages": "Message ToolCall ToolSchema as_messages assistant system tool_call tool_result user",
    "rewards": "EnvironmentReward FunctionReward GroupReward Reward RewardResult Score reward score_messages",
    "seeds": "derive_seed",
    "strategy": "Strategy",
    "toolbox": "Toolbox",
    "tools": "ToolCallError ToolLike ToolLimits as_tool tool_schema",
    "trajectory": "Ledger RewardRecord StopReason Task TokenSequence ToolRun Trajectory Turn",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "HELD_OUT",
    "HOOK_API",
    "TRAIN",
    "TRAINABLE",
    "Backend",
    "Cache",
    "Capability",
    "CapabilityError",
    "ChatReply",
    "ConfigError",
    "ContextOverflowError",
    "Embedder",
    "Environment",
    "EnvironmentReward",
    "FinishReason",
    "FunctionReward",
    "GroupReward",
    "GrpoError",
    "Ledger",
    "Message",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "Observation",
    "PluginError",
    "ProviderError",
    "Reward",
    "RewardRecord",
    "RewardResult",
    "RunError",
    "Sampling",
    "Score",
    "StepResult",
    "StopReason",
    "Strategy",
    "Task",
    "TokenReply",
    "TokenSequence",
    "ToolCall",
    "ToolCallError",
    "ToolLike",
    "ToolLimits",
    "ToolRun",
    "ToolSchema",
    "Toolbox",
    "Trajectory",
    "Turn",
    "as_messages",
    "as_tool",
    "assistant",
    "derive_seed",
    "hookimpl",
    "reward",
    "score_messages",
    "system",
    "tool_call",
    "tool_result",
    "tool_schema",
    "user",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
