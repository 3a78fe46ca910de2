"""A host that has the built-in plugins and those of one distribution."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.plugins import Offer, Plugin, load_plugins
from grpo_host.plugins.describe import describe
from grpo_host.plugins.record import KINDS, canonical
from grpo_sdk.messages import Message
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Trajectory

if TYPE_CHECKING:
    from grpo_host.checks.check import Purpose, Report

BUILT_IN = "grpo-agent-framework"


class PluginHost:
    """What the host makes of one distribution.

    Raises ``PluginError`` if it is not installed, or if one of its plugins is broken.
    """

    def __init__(self, distribution: str) -> None:
        self.registry = load_plugins([BUILT_IN, distribution])
        self.plugins: list[Plugin] = [
            plugin
            for plugin in self.registry.plugins
            if canonical(plugin.distribution) == canonical(distribution)
        ]
        """One an entry point."""

    @property
    def offers(self) -> list[Offer]:
        """Everything that the distribution offers."""
        return [
            offer for kind in KINDS for offer in self.registry.offers(kind) if offer.plugin in self.plugins
        ]

    def observers(self, hook: str) -> list[Callable[[dict[str, Any]], Any]]:
        """Its implementations of an observer hook; each takes the hook's arguments by name."""
        return [call for plugin, call in self.registry.observers(hook) if plugin in self.plugins]

    def describe(self, offer: Offer) -> dict[str, Any]:
        """What ``grpo-host plugins show`` says of ``offer``."""
        return describe(offer)

    def check(
        self, agent_yaml: str | Path, *, purpose: Purpose = "rollout", overrides: Sequence[str] = ()
    ) -> Report:
        """What ``grpo-host check`` finds in ``agent_yaml``. Raises ``ConfigError`` if it cannot be read."""
        from grpo_host.checks.check import check
        from grpo_host.config.load import load_config
        from grpo_host.config.resolve import resolve

        loaded = resolve(load_config(agent_yaml, overrides, self.registry), self.registry)
        with loaded.closing:
            return check(loaded, purpose=purpose)

    def play(
        self,
        agent_yaml: str | Path,
        *replies: Message | str,
        episodes: int = 1,
        split: str = "train",
        overrides: Sequence[str] = (),
    ) -> list[Trajectory]:
        """Play tasks of ``agent_yaml`` with an agent that says ``replies``, and score them with its rewards.

        Raises ``GrpoError`` if the file or a part of it is wrong.
        """
        from grpo_host.checks.load import load_checked
        from grpo_host.config.overrides import Override
        from grpo_host.rollouts.engine import group_requests
        from grpo_host.runs.assembled import assemble
        from grpo_host.runs.playing import start_agent
        from grpo_host.utils.progress import Reporter

        backend = {"name": f"{BUILT_IN}:scripted", "options": {"replies": list(replies)}}
        said = Override(("backend",), backend, "play()")
        loaded = load_checked(Path(agent_yaml), [*overrides, said], self.registry, "rollout")
        config = loaded.config
        with ExitStack() as stack:
            stack.enter_context(loaded.closing)
            assembly = assemble(loaded)
            tasks = assembly.tasks(split)[:episodes]
            agent, loop = start_agent(stack, assembly, Reporter(sys.stderr))
            requests = group_requests(
                tasks, 1, seed=lambda task, sample: derive_seed(config.seed, task.id, sample), label="play"
            )
            engine = assembly.engine(agent, [self.registry.notify_episode])
            groups, _ = loop.run(engine.run(requests))
        return [trajectory for group in groups for trajectory in group]
