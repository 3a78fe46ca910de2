"""The hooks that a plugin implements, and the version of this contract.

A plugin is a module or object behind an entry point of group ``grpo``:

    [project.entry-points.grpo]
    my-rewards = "my_rewards.plugin"

Registration hooks are called once, when the host starts, in every process that the host runs.
They return ``{name: factory}`` and must be quick: import heavy modules inside the factory.
If one raises, the whole plugin is recorded as broken and its names are not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_sdk.backend import Backend
    from grpo_sdk.bundles import Opening, ToolBundle
    from grpo_sdk.curriculum import Curriculum
    from grpo_sdk.environment import Environment
    from grpo_sdk.rewards import GroupReward, Reward
    from grpo_sdk.strategy import Strategy
    from grpo_sdk.trajectory import Trajectory

HOOK_API = 1
"""Version of this contract. A plugin may state ``GRPO_HOOK_API = (lowest, highest)``; default: any."""

ENTRY_POINT_GROUP = "grpo"

hookspec = pluggy.HookspecMarker("grpo")
hookimpl = pluggy.HookimplMarker("grpo")
"""Marks a function of a plugin as the implementation of the hook of its name."""

RewardFactory: TypeAlias = "Callable[..., Reward | GroupReward]"
ToolFactory: TypeAlias = "Callable[..., ToolBundle | Opening]"
EnvironmentFactory: TypeAlias = "Callable[..., Environment]"
BackendFactory: TypeAlias = "type[Backend]"
StrategyFactory: TypeAlias = "Callable[..., Strategy]"
CurriculumFactory: TypeAlias = "Callable[..., Curriculum]"


class GrpoHooks:
    """The hook specifications."""

    @hookspec
    def grpo_rewards(self) -> Mapping[str, RewardFactory]:  # type: ignore[empty-body]
        """Offer rewards. Called once at start-up.

        A factory is a class or function whose keyword parameters, with types and defaults,
        are the reward's options in agent.yaml.
        """

    @hookspec
    def grpo_tools(self) -> Mapping[str, ToolFactory]:  # type: ignore[empty-body]
        """Offer tools. Called once at start-up.

        A factory returns a langchain-core ``BaseTool``, a plain function, a list of these, or a
        ``ToolBundle``, whose tools are opened and closed with the run or with each episode; its keyword
        parameters are the options in agent.yaml. It may be a coroutine, or an async context manager.
        """

    @hookspec
    def grpo_environments(self) -> Mapping[str, EnvironmentFactory]:  # type: ignore[empty-body]
        """Offer environments. Called once at start-up; the factory is called once an episode."""

    @hookspec
    def grpo_backends(self) -> Mapping[str, BackendFactory]:  # type: ignore[empty-body]
        """Offer backends. Called once at start-up.

        Return subclasses of ``Backend`` from modules that import no engine: the host reads
        ``capabilities`` before it makes one.
        """

    @hookspec
    def grpo_strategies(self) -> Mapping[str, StrategyFactory]:  # type: ignore[empty-body]
        """Offer strategies. Called once at start-up."""

    @hookspec
    def grpo_curricula(self) -> Mapping[str, CurriculumFactory]:  # type: ignore[empty-body]
        """Offer curricula. Called once at start-up; ``training.curriculum`` of agent.yaml names one."""

    @hookspec
    def grpo_episode_finished(self, trajectory: Trajectory) -> None:
        """An episode ended and its rewards are known. Called in the rollout's event loop: be quick.

        An exception is logged with the plugin's name and changes nothing.
        """

    @hookspec
    def grpo_step_finished(self, step: int, metrics: Mapping[str, Any]) -> None:
        """A training step ended; ``metrics`` is its line of metrics.jsonl.

        An exception is logged with the plugin's name and changes nothing.
        """

    @hookspec
    def grpo_run_started(self, command: str, agent: str, directory: Path | None) -> None:
        """A command begins with its work, before the model is loaded.

        ``command`` is ``run``, ``eval``, ``rollout`` or ``serve``; ``agent`` the name in agent.yaml;
        ``directory`` where it writes, if it has a directory. Called once, by the main process, in a thread
        for which it waits at most 30 s. An exception is logged with the plugin's name and changes nothing.
        """

    @hookspec
    def grpo_run_finished(self, command: str, agent: str, directory: Path | None, error: str | None) -> None:
        """The command's work is over and all that it opened closed; ``error`` says why it failed, if it did.

        Otherwise as ``grpo_run_started``: what goes wrong here does not change how the command ends.
        """


REGISTRATION_HOOKS: dict[str, str] = {
    "grpo_rewards": "reward",
    "grpo_tools": "tool",
    "grpo_environments": "environment",
    "grpo_backends": "backend",
    "grpo_strategies": "strategy",
    "grpo_curricula": "curriculum",
}
"""Registration hook → the kind of thing that it offers."""
