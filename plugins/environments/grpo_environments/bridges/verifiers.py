"""The environment verifiers: a taskset of verifiers, with its tools and its rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package
from grpo_environments.splits import require_between


class VerifiersEnvironment(BridgedEnvironment):
    """Plays a taskset of verifiers (``verifiers.v1``): its tasks, toolsets, rewards and metrics.

    An episode ends with the first answer that calls no tool. ``outcome``: each reward and each metric by its
    name, ``score`` (the weighted sum of the rewards) and ``success`` (it is at least the option of that
    name). The reward ``environment`` gives the score.
    """

    package = Package("verifiers", "verifiers", "verifiers", "verifiers_side")

    def __init__(
        self,
        *,
        taskset: str,
        directory: Path | None = None,
        config: dict[str, Any] | None = None,
        tasks: int = 1000,
        success: float = 1.0,
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``taskset``: its id, which is the name of its module. ``directory``: where that is imported from,
        besides what is installed in ``venv``. ``config``: the taskset's own. ``tasks``: at most so many are
        taken, of which a fifth is held out. ``success``: the score from which an episode is a success.
        ``venv``: the virtual environment that has the package verifiers; without it, the host's own. Raises
        ``ValueError`` for one that does not fit.
        """
        require_between("tasks", tasks, 1, 1_000_000)
        options: dict[str, Any] = {"taskset": taskset, "config": config or {}}
        options |= {"directory": None if directory is None else str(directory)}
        super().__init__(venv, {**options, "tasks": tasks, "success": success})
