"""The agent that agent.yaml describes, for rollouts, evaluations, serving and embedding alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike, ToolLimits

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, LimitsConfig, SamplingConfig


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


def sampling_from_config(said: SamplingConfig) -> Sampling:
    """As backends take it."""
    return Sampling(said.max_tokens, said.temperature, said.top_p, said.top_k)


def limits_from_config(said: LimitsConfig) -> AgentLimits:
    """What agent.yaml allows one conversation."""
    tools = ToolLimits(said.tool_seconds, said.tool_output_chars)
    return AgentLimits(said.turns, said.turn_seconds, tools)
