"""The environment bfcl: multi-turn tasks of the Berkeley Function-Calling Leaderboard, and its checker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package

Category = Literal["base", "miss_param", "long_context"]


class BfclEnvironment(BridgedEnvironment):
    """BFCL's multi-turn tasks: its simulated APIs are the agent's tools, its checker judges the episode.

    The user says one thing after another; a turn ends with an answer that calls nothing. ``outcome``:
    ``success`` as BFCL's ``multi_turn_checker`` says, ``error_type`` as it names what is wrong, ``progress``,
    the share of the turns that it accepts before the first that it does not.

    A task that one category holds out is held out in all: they share their scenarios.
    """

    package = Package("bfcl-eval", "bfcl_eval", "--no-deps bfcl-eval mpmath filelock", "bfcl_side")

    def __init__(
        self,
        *,
        categories: tuple[Category, ...] = ("base",),
        partial: bool = False,
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``categories``: of the multi-turn tasks, 200 each. ``miss_func`` is none of them: it gives the agent
        further tools within an episode. ``partial``: the outcome has ``progress`` as its ``score`` too, which
        ``task_success`` then gives. ``venv``: the virtual environment that has the package bfcl-eval; without
        it, the host's own. Raises ``ValueError`` if there is no category.
        """
        if not categories:
            raise ValueError("categories is empty; choose from base, miss_param and long_context")
        super().__init__(venv, {"categories": list(categories), "partial": partial})
