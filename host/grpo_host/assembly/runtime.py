"""The parts that agent.yaml names, put together: backend, agent, environments, rewards, engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grpo_host.assembly.agent import agent_from_config
from grpo_host.assembly.from_yaml import Parts
from grpo_host.assembly.tools import bundles_of, close_bundles
from grpo_host.backends.lifetime import close_backends, start_backend
from grpo_host.rollouts.engine import Observer, RolloutEngine
from grpo_host.rollouts.episode import EpisodeAgent
from grpo_host.rollouts.mixture import environment_of
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk.backend import Backend
from grpo_sdk.blocking import settled
from grpo_sdk.deadline import Deadline
from grpo_sdk.environment import Environment
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig

TOOLS_SECONDS = 600.0
"""How long an environment may take to begin where only its tools are asked for."""


@dataclass
class Assembly:
    """What a run, an evaluation or a server works with."""

    config: AgentConfig
    parts: Parts

    @property
    def backend(self) -> Backend:
        """Where tokens come from."""
        return self.parts.backend

    async def start(self) -> EpisodeAgent:
        """Load the backend, open the tools of the run, and give the agent that speaks through it."""
        await self.start_tools()
        await start_backend(self.backend)
        agent = agent_from_config(self.config, self.backend, self.parts.strategy, self.parts.tools)
        answers = self.parts.answers
        return agent if answers is None else replace(agent, run_tool=answers.tool_call)

    async def start_tools(self) -> None:
        """Open the bundles of tools that are opened once a run. Raises ``PluginError`` if one cannot be."""
        for bundle in bundles_of(self.parts.tools):
            await bundle.start()

    async def close(self) -> None:
        """Stop the backend, close tools and rewards, and the backends that rewards and environments have."""
        rewards = RewardSet(self.parts.rewards)
        try:
            await close_backends(self.backend)
        finally:
            rewards.close()
            await close_bundles(self.parts.tools)
            await close_backends(*rewards.backends, *self.parts.environment_backends)
            if self.parts.answers is not None:
                self.parts.answers.close()

    def evaluating(self, agent: EpisodeAgent) -> EpisodeAgent:
        """``agent`` as it is evaluated: at the evaluation's temperature."""
        return agent.sampled(temperature=self.config.evaluation.temperature)

    def engine(
        self,
        agent: EpisodeAgent,
        observers: Iterable[Observer] = (),
        others: Sequence[WeightedReward] = (),
    ) -> RolloutEngine:
        """A rollout engine for ``agent`` in this environment, scored with these rewards and ``others``."""
        return RolloutEngine(
            agent,
            self.parts.environment,
            RewardSet([*self.parts.rewards, *others]),
            environment_name=environment_of if self.config.environments else self.config.environment_label,
            concurrency=self.config.rollouts.concurrency,
            episode_seconds=self.config.agent.limits.episode_seconds,
            observers=[*([self.parts.answers.see] if self.parts.answers else []), *observers],
            max_consecutive_failures=self.config.rollouts.max_consecutive_failures,
        )

    def tasks(self, split: str) -> Sequence[Task]:
        """The environment's tasks of ``split``."""
        return self.parts.environment().tasks(split)


async def sample_tools(environment: Environment) -> Sequence[ToolLike]:
    """The tools of ``environment`` as an episode has them, for what only needs their schemas; closes it.

    Raises ``TimeoutError`` if they do not come.
    """
    try:
        with Deadline(TOOLS_SECONDS):
            await environment.reset(environment.tasks("train")[0], seed=0)
            return await settled(environment.tools())
    finally:
        await environment.close()
