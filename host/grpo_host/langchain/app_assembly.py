"""The parts of an agent.yaml whose agent is an app."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_host.assembly.agent import agent_from_config
from grpo_host.assembly.runtime import Assembly
from grpo_host.backends.lifetime import start_backend
from grpo_host.langchain.app import App, load_app
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.langchain.redirect import Redirect
from grpo_sdk.strategy import Strategy

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentSection

THREADS = 32
"""For what an app does in threads, at least; as many as episodes run side by side if these are more."""


@dataclass
class AppAssembly(Assembly):
    """As an ``Assembly``; its agent is the app that ``agent.runnable`` names."""

    redirect: Redirect | None = None
    """Until it is closed, the app's models are the policy or are refused."""
    app: App | None = None

    async def start(self) -> AppAgent:
        """Import the app, load the backend and give the agent that is the app."""
        config = self.config
        if config.agent.runnable is None:
            raise ValueError("agent.yaml names no app")
        app = self.app = load_app(config.agent.runnable, config.agent.others)
        await self.start_tools()
        await start_backend(self.backend)
        # Those of Python's own would let few episodes of an app that is not async run side by side.
        threads = max(THREADS, config.rollouts.concurrency)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads, "grpo-app"))
        agent = agent_from_config(config, self.backend, Strategy("app"), self.parts.tools)
        train = config.agent.train
        weights = None if train is None else weights_from_config(train)
        played = AppAgent(agent, app, mapping_from_config(config.agent), weights)
        self.redirect = Redirect(config.agent.redirect, played.model, config.agent.others)
        self.redirect.install()
        return played

    async def close(self) -> None:
        if self.redirect is not None:
            self.redirect.restore()
        if self.app is not None:
            self.app.close()
        await super().close()


def weights_from_config(train: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """The factor of the loss of each role that is trained."""
    return dict(train) if isinstance(train, Mapping) else dict.fromkeys(train, 1.0)


def mapping_from_config(said: AgentSection) -> AppMapping:
    """What agent.yaml says an app takes and gives."""
    return AppMapping(said.input, said.context, said.output)
