"""The parts that agent.yaml names, put together: backend, agent, environments, rewards, engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.assembly.from_yaml import Wired, build
from grpo_host.rollouts.engine import Observer, RolloutEngine
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.blocking import settled
from grpo_sdk.tools import ToolLike, ToolLimits
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, LimitsConfig
    from grpo_host.plugins import Registry


@dataclass
class Assembly:
    """What a run, an evaluation or a server works with."""

    config: AgentConfig
    parts: Wired

    @property
    def backend(self) -> Backend:
        """Where tokens come from."""
        return self.parts.backend

    async def start(self) -> Agent:
        """Load the backend and give the agent that speaks through it."""
        await self.backend.start()
        speaks_tokens = Capability.TOKEN_IDS in self.backend.capabilities
        sampling = self.config.sampling
        return Agent(
            backend=self.backend,
            renderer=make_renderer(self.backend.tokenizer, self.backend.model) if speaks_tokens else None,
            strategy=self.parts.strategy,
            tools=tuple(self.parts.tools),
            sampling=Sampling(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
            ),
            limits=agent_limits(self.config.agent.limits),
        )

    async def close(self) -> None:
        """Stop the backend, close the rewards, and stop the backends that they have for themselves."""
        rewards = RewardSet(self.parts.rewards)
        try:
            await self.backend.close()
        finally:
            rewards.close()
            await rewards.close_backends()

    def evaluating(self, agent: Agent) -> Agent:
        """``agent`` as it is evaluated: at the evaluation's temperature."""
        temperature = self.config.evaluation.temperature
        return replace(agent, sampling=replace(agent.sampling, temperature=temperature))

    def engine(self, agent: Agent, observers: Iterable[Observer] = ()) -> RolloutEngine:
        """A rollout engine for ``agent`` in this environment, scored with these rewards."""
        return RolloutEngine(
            agent,
            self.parts.environment,
            RewardSet(self.parts.rewards),
            environment_name=self.config.environment.name,
            concurrency=self.config.rollouts.concurrency,
            episode_seconds=self.config.agent.limits.episode_seconds,
            observers=observers,
        )

    def tasks(self, split: str) -> Sequence[Task]:
        """The environment's tasks of ``split``."""
        return self.parts.environment().tasks(split)

    async def sample_tools(self) -> Sequence[ToolLike]:
        """The environment's tools as an episode has them, for what only needs their schemas."""
        environment = self.parts.environment()
        try:
            await environment.reset(environment.tasks("train")[0], seed=0)
            return await settled(environment.tools())
        finally:
            await environment.close()


def agent_limits(limits: LimitsConfig) -> AgentLimits:
    """What agent.yaml allows one conversation."""
    tools = ToolLimits(limits.tool_seconds, limits.tool_output_chars)
    return AgentLimits(limits.turns, limits.turn_seconds, tools)


def assemble(
    config: AgentConfig, registry: Registry, *, progress: Callable[[str], None] | None = None
) -> Assembly:
    """Make every part that ``config`` names; the backend is not started yet."""
    return Assembly(config, build(config, registry, progress=progress))
