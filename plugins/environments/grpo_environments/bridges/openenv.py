"""The environment openenv: any environment of OpenEnv, at an address or served here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package
from grpo_environments.splits import SeededTasks
from grpo_sdk.trajectory import Task


class OpenEnvEnvironment(BridgedEnvironment):
    """Plays an environment of OpenEnv through openenv's own client.

    If its actions are calls of tools, they are the agent's tools, and an answer that calls none is the last;
    otherwise each answer is an action. ``outcome``: ``success`` (the rewards' sum is above the option of that
    name), ``score`` (their sum), ``steps``. The reward ``environment`` gives the sum.
    """

    package = Package("openenv", "openenv", "openenv", "openenv_side")

    def __init__(
        self,
        *,
        url: str | None = None,
        app: str | None = None,
        directory: Path | None = None,
        reset: dict[str, Any] | None = None,
        instructions: str = "",
        show: str | None = None,
        success: float = 0.0,
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        task_seed: int = 0,
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``url``: of a server that runs, with a session for each episode at a time. ``app``: instead, the
        server's app, as uvicorn names it (my_env.server.app:app); each episode serves it for itself.
        ``directory``: where it is imported from, besides what is installed. ``reset``: arguments of reset
        besides the seed. ``instructions``: what the agent is told first. ``show``: the field of an
        observation that the agent sees; without it, all, as JSON. ``success``: the sum of rewards above which
        an episode is a success. ``task_seed``: other tasks, which are seeds of reset. ``venv``: the virtual
        environment that has the package openenv, and the app; without it, the host's own. Raises
        ``ValueError`` for one that does not fit.
        """
        self._tasks = SeededTasks("openenv", task_seed, train_tasks, held_out_tasks)
        if (url is None) == (app is None):
            raise ValueError("name either url, a server that runs, or app, one that is served here")
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"url: {url} begins with neither http:// nor https://")
        options: dict[str, Any] = {
            "url": url,
            "app": app,
            "directory": None if directory is None else str(directory),
        }
        options |= {"reset": reset or {}, "instructions": instructions, "show": show, "success": success}
        super().__init__(venv, options)

    def tasks(self, split: str) -> Sequence[Task]:
        return self._tasks.of(split)
