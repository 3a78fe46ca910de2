"""TextArena's games, beside the package textarena. Run by ``worker.py``, one fork an episode.

Games draw from the global generator of Python: a fork for each is what makes them repeatable.
"""

from __future__ import annotations

import random
from difflib import get_close_matches
from typing import Any

import textarena
from textarena.core import GAME_ID, ObservationType
from textarena.envs.registration import ENV_REGISTRY


class Side:
    """One episode."""

    def __init__(
        self, game: str, options: dict[str, Any], players: int, counts: dict[str, int], task_seed: int
    ) -> None:
        if game not in ENV_REGISTRY:
            known = [name for name in ENV_REGISTRY if not name.endswith(("-raw", "-train"))]
            alike = [name for name in known if name.partition("-")[0] == game.partition("-")[0]]
            alike = alike or get_close_matches(game, known)
            raise SystemExit(
                f"textarena has no game {game}; "
                + (f"like it are {', '.join(alike)}" if alike else f"it has {len(known)}, such as {known[0]}")
            )
        self.players, self.counts, self.task_seed = players, counts, task_seed
        self.game = textarena.make(game, **options)
        self.seat = 0
        self.conversations: dict[int, list[dict[str, str]]] = {}
        """What each other player was shown, and said."""
        self.outcome_: dict[str, Any] = {"success": False, "score": 0.0}

    def tasks(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{split}-{index:04d}",
                "split": split,
                "data": {
                    "seed": random.Random(f"{self.task_seed} {split} {index}").getrandbits(31),
                    "seat": index % self.players,
                },
            }
            for split, count in self.counts.items()
            for index in range(count)
        ]

    def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        self.seat = data["seat"]
        random.seed(data["seed"])  # noqa: TID251 - this process's own; not all games seed it themselves
        self.game.reset(num_players=self.players, seed=data["seed"])
        return {**self._next(), "tools": []}

    def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return self._played(said[-1]["content"])

    def other_says(self, text: str) -> dict[str, Any]:
        self.conversations[self.game.state.current_player_id].append({"role": "assistant", "content": text})
        return self._played(text)

    def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return self.outcome_

    def _played(self, action: str) -> dict[str, Any]:
        done, _ = self.game.step(action)
        if not done:
            return self._next()
        rewards, facts = self.game.close()
        score = float((rewards or {}).get(self.seat, 0.0))
        mine = facts.get(self.seat, {})
        self.outcome_ = {
            "success": score >= 1.0,
            "score": score,
            "invalid_move": bool(mine.get("invalid_move", False)),
            "reason": str(mine.get("reason", "")),
        }
        return {"done": True, "outcome": self.outcome_, "reward": score}

    def _next(self) -> dict[str, Any]:
        """What the player whose turn it is has not seen yet, to the agent or to another."""
        player = self.game.state.current_player_id
        shown = {"role": "user", "content": self._shown(player)}
        if player == self.seat:
            return {"messages": [shown], "reward": 0.0}  # so a game that a limit ends is scored too
        conversation = self.conversations.setdefault(player, [])
        conversation.append(shown)
        return {"other": conversation}

    def _shown(self, player: int) -> str:
        names = self.game.state.role_mapping
        texts = [
            str(text) if sender == GAME_ID else f"[{names.get(sender, f'Player {sender}')}] {text}"
            for sender, text, kind in self.game.state.get_current_player_observation()
            if not (kind == ObservationType.PLAYER_ACTION and sender == player)  # it has said it itself
        ]
        return "\n".join(text.strip() for text in texts if text.strip()) or "It is your turn."
