"""The environment textarena: text games of TextArena, against the game or against other players."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package
from grpo_environments.splits import require_between
from grpo_sdk.backend import Backend, Sampling


class TextArenaEnvironment(BridgedEnvironment):
    """Plays a game of TextArena: what it shows is the user's message, an answer is a move.

    ``outcome``: ``success`` (a score of 1, which is a game that is won), ``score`` (what the game gives the
    agent: up to 1, often a share of what was to be done; -1 for one that is lost), ``invalid_move`` (what
    ended it was one), ``reason`` in the game's words. The reward ``environment`` gives the score.
    """

    package = Package("textarena", "textarena", "textarena", "textarena_side")

    def __init__(
        self,
        *,
        game: str,
        options: dict[str, Any] | None = None,
        players: int = 1,
        opponent: Backend | None = None,
        opponent_tokens: int = 256,
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        task_seed: int = 0,
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``game``: as TextArena registers it, such as Mastermind-v0. ``options``: of the game, for
        textarena.make. ``players``: how many it is played by; the agent takes each seat in turn.
        ``opponent``: the backend that plays the others, which is never trained. ``opponent_tokens``: its
        longest move. ``task_seed``: other tasks, which are seeds of the game. ``venv``: the virtual
        environment that has the package textarena; without it, the host's own. Raises ``ValueError`` for one
        that does not fit.
        """
        require_between("train_tasks", train_tasks, 1, 1_000_000)
        require_between("held_out_tasks", held_out_tasks, 0, 100_000)
        require_between("players", players, 1, 20)
        if players > 1 and opponent is None:
            raise ValueError(f"players is {players}, so opponent must name a backend that plays the others")
        counts = {"train": train_tasks, "held_out": held_out_tasks}
        super().__init__(
            venv,
            {
                "game": game,
                "options": options or {},
                "players": players,
                "counts": counts,
                "task_seed": task_seed,
            },
            other=opponent,
            sampling=Sampling(max_tokens=opponent_tokens),
        )
