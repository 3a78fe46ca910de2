"""The agent that agent.yaml describes, for rollouts, evaluations, serving and embedding alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.backends.local_model import AUTO, LocalModel
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike, ToolLimits

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, LimitsConfig, SamplingConfig
    from grpo_host.plugins import Registry
    from grpo_host.plugins.use import ModelConfig, PluginUse


def agent_from_config(
    config: AgentConfig, backend: Backend, strategy: Strategy, tools: Sequence[ToolLike]
) -> Agent:
    """The agent of ``config`` on the started ``backend``, sampled as it is trained."""
    speaks_tokens = Capability.TOKEN_IDS in backend.capabilities
    return Agent(
        backend=backend,
        renderer=make_renderer(backend.tokenizer, backend.model) if speaks_tokens else None,
        strategy=strategy,
        tools=tuple(tools),
        sampling=sampling_from_config(config.sampling),
        limits=limits_from_config(config.agent.limits),
    )


def local_model_from_config(
    model: ModelConfig, backend: PluginUse, registry: Registry, name: str, adapter: Path | None
) -> LocalModel:
    """``model``, or another one called ``name`` that was trained, with ``adapter`` on ``backend``."""
    own = name == model.name
    return LocalModel(
        name,
        backend=backend.name,
        options=backend.options,
        adapter=adapter,
        dtype=model.dtype,
        context=model.context,
        stop=model.stop if own else (),
        tool_format=model.tool_format if own else AUTO,
        registry=registry,
    )


def sampling_from_config(said: SamplingConfig) -> Sampling:
    """As backends take it."""
    return Sampling(said.max_tokens, said.temperature, said.top_p, said.top_k)


def limits_from_config(said: LimitsConfig) -> AgentLimits:
    """What agent.yaml allows one conversation."""
    tools = ToolLimits(said.tool_seconds, said.tool_output_chars)
    return AgentLimits(said.turns, said.turn_seconds, tools)
