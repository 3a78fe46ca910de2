"""Games of TextArena, against the library itself."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from grpo_environments.bridges.textarena import TextArenaEnvironment
from grpo_sdk.messages import assistant
from grpo_sdk.testing import ScriptedBackend

needs_textarena = pytest.mark.skipif(
    find_spec("textarena") is None, reason="pip install 'grpo-agent-framework[textarena]'"
)
MOVES = ["[1 2 3 4]", "[5 6 1 2]", "no code", "still none"]
THEIRS = """\
import json, random, sys
import textarena
seed, moves = json.loads(sys.argv[1])
random.seed(seed)
game = textarena.make("Mastermind-v0", max_turns=3)
game.reset(num_players=1, seed=seed)
shown = [game.get_observation()[1]]
for move in moves:
    done, _ = game.step(move)
    shown.append("" if done else game.get_observation()[1])
rewards, facts = game.close()
print(json.dumps([shown, rewards[0], facts[0]["reason"]]))
"""


def of_textarena(seed: int, moves: list[str]) -> Any:
    """What the library's own loop shows of these moves, its reward, and why it ended."""
    command = [sys.executable, "-c", THEIRS, json.dumps([seed, moves])]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@needs_textarena
async def test_a_game_is_shown_and_scored_as_by_textarena_itself() -> None:
    environment = TextArenaEnvironment(game="Mastermind-v0", options={"max_turns": 3})
    task = environment.tasks("train")[3]
    opening = await environment.reset(task, seed=0)
    *results, last = [await environment.step(assistant(move)) for move in MOVES]
    await environment.close()
    shown, reward, reason = of_textarena(task.data["seed"], MOVES)

    assert opening.messages[0]["content"] in shown[0]
    for result, theirs in zip(results, shown[1:-1], strict=True):
        assert result.messages[0]["content"] in theirs
    assert [result.reward for result in results] == [0.0, 0.0, 0.0]
    assert (last.done, last.reward) == (True, reward)
    assert last.outcome == {"success": False, "score": reward, "invalid_move": True, "reason": reason}
    assert 0.0 < reward < 1.0


@needs_textarena
async def test_a_second_model_plays_the_other_seat_and_the_agent_each_in_turn() -> None:
    asked: list[list[dict[str, Any]]] = []

    def opponent(messages: Any, tools: Any) -> str:
        asked.append([dict(message) for message in messages])
        return f"[{len(messages) // 2 + 3}]"  # 3, 4, 5: a row

    environment = TextArenaEnvironment(
        game="TicTacToe-v0", players=2, opponent=ScriptedBackend(script=opponent)
    )
    first, second, *_ = environment.tasks("train")
    opening = await environment.reset(first, seed=0)
    results = [await environment.step(assistant(move)) for move in ("[0]", "[8]", "[6]")]
    reply = await environment.reset(second, seed=0)
    await environment.close()

    assert opening.messages[0]["content"].startswith("You are Player 0 in Tic Tac Toe.")
    assert asked[0][0]["content"].startswith("You are Player 1 in Tic Tac Toe.")
    assert "[Player 1] [3]" in results[0].messages[0]["content"]
    assert asked[1][1] == {"role": "assistant", "content": "[3]"}
    assert results[2].outcome["score"] == -1.0
    assert not results[2].outcome["success"]
    assert reply.messages[0]["content"].startswith("You are Player 1 in Tic Tac Toe.")


@needs_textarena
async def test_episodes_of_one_seed_ask_the_other_player_with_the_same_seeds() -> None:
    seeds: list[int | None] = []

    class Opponent(ScriptedBackend):
        async def chat(self, messages: Any, sampling: Any, tools: Any = ()) -> Any:
            seeds.append(sampling.seed)
            return await super().chat(messages, sampling, tools)

    opponent = Opponent(script=lambda messages, tools: f"[{len(messages) // 2 + 3}]")
    environment = TextArenaEnvironment(game="TicTacToe-v0", players=2, opponent=opponent)
    task = environment.tasks("train")[0]
    for seed in (7, 7, 8):
        await environment.reset(task, seed=seed)
        for move in ("[0]", "[8]"):
            await environment.step(assistant(move))
    await environment.close()

    first, again, other = seeds[:2], seeds[2:4], seeds[4:]
    assert None not in seeds
    assert first == again
    assert len({*first, *other}) == 4


@needs_textarena
@pytest.mark.parametrize(
    ("game", "like"), [("Wordle-v9", "Wordle-v0, Wordle-v0-hardcore"), ("Mastermid-v0", "Mastermind-v0")]
)
def test_a_game_that_textarena_does_not_have_is_refused_with_those_like_it(game: str, like: str) -> None:
    with pytest.raises(Exception, match=f"textarena has no game {game}; like it are {like}"):
        TextArenaEnvironment(game=game).tasks("train")


def test_a_game_of_several_needs_somebody_who_plays_the_others() -> None:
    with pytest.raises(ValueError, match="players is 2, so opponent must name a backend"):
        TextArenaEnvironment(game="TicTacToe-v0", players=2)
