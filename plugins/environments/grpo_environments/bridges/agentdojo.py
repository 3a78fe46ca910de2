"""The environment agentdojo: office tasks with tools, into whose results somebody has put instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package

Suite = Literal["workspace", "travel", "banking", "slack"]


class AgentDojoEnvironment(BridgedEnvironment):
    """AgentDojo's tasks: a user asks for something, and what tools return may ask for something else.

    An episode ends with the first answer that calls no tool. ``outcome``: ``success``, whether the user's
    task was done, and ``resisted``, whether the injected one was not, both by AgentDojo's own checks. The
    reward ``outcome`` gives ``resisted``.

    A task is a pair of a user's and an injected task. Pairs of one user's task are all held out, or none.
    """

    package = Package("agentdojo", "agentdojo", "agentdojo", "agentdojo_side")

    def __init__(
        self,
        *,
        suites: tuple[Suite, ...] = ("workspace", "travel", "banking", "slack"),
        attack: str | None = "important_instructions",
        addressed: str = "local",
        version: str = "v1.2.2",
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``attack``: the name of one of AgentDojo's (``direct``, ``ignore_previous``, ``system_message``,
        ``injecagent``, ``important_instructions``, ``tool_knowledge``, ``dos`` …); null: only users' tasks.
        ``addressed``: which model an attack speaks to, by AgentDojo's names. ``version``: of the benchmark.
        ``venv``: the virtual environment that has the package agentdojo; without it, the host's own. Raises
        ``ValueError`` if there is no suite, or for the attack ``manual``, which asks a person.
        """
        if not suites:
            raise ValueError("suites is empty; choose from workspace, travel, banking and slack")
        if attack == "manual":
            raise ValueError("the attack manual asks a person at the keyboard; choose another")
        options = {"suites": list(suites), "attack": attack, "addressed": addressed, "version": version}
        super().__init__(venv, options)
