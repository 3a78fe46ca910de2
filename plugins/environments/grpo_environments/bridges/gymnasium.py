"""The environment gymnasium: games of Gymnasium whose state is text and whose actions are words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from grpo_environments.splits import SeededTasks
from grpo_sdk.blocking import call_blocking
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.errors import MissingExtraError
from grpo_sdk.messages import Message, system, user
from grpo_sdk.trajectory import Task

_HIGHLIGHT = re.compile(r"\x1b\[4\dm(.*?)\x1b\[0m")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class GymnasiumEnvironment(Environment):
    """Plays an environment of Gymnasium: what it shows is the user's message, an answer is an action.

    Actions are a Discrete space, by name, or Text. ``outcome``: ``success`` (the return is above the option
    of that name), ``score`` (the return), ``steps``. The reward ``environment`` gives the return.
    """

    def __init__(
        self,
        *,
        id: str,
        options: dict[str, Any] | None = None,
        actions: tuple[str, ...] = (),
        instructions: str = "",
        show: Literal["observation", "render"] = "observation",
        success: float = 0.0,
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        task_seed: int = 0,
    ) -> None:
        """Set the options.

        ``id``: as Gymnasium registers it, such as FrozenLake-v1. ``options``: of its own, for
        gymnasium.make. ``actions``: names of a Discrete space's actions, in its order; empty: their numbers.
        ``instructions``: what the agent is told besides them. ``show``: the observation, or the picture of
        render mode ansi, in which [ ] stand for what is highlighted. ``success``: the return above which an
        episode is a success. ``task_seed``: other tasks, which are seeds of its reset. Raises ``ValueError``
        for one that does not fit, ``MissingExtraError`` without Gymnasium.
        """
        self._tasks = SeededTasks("gymnasium", task_seed, train_tasks, held_out_tasks)
        library = _library()
        if ":" in id:
            raise ValueError(
                f"id: {id} names a module; its package registers it by the entry point gymnasium.envs"
            )
        try:
            library.spec(id)
        except library.error.Error as problem:
            raise ValueError(f"id: {str(problem).strip()}") from None
        self._id, self._options, self._named = id, dict(options or {}), actions
        self._instructions, self._show, self._least = instructions, show, success
        self._game: Any = None
        self._actions: dict[str, Any] | None = None
        """Of a Discrete space, by their names in small letters; None of Text."""
        self._return, self._steps = 0.0, 0

    def tasks(self, split: str) -> Sequence[Task]:
        return self._tasks.of(split)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._return, self._steps = 0.0, 0
        shown = await call_blocking(self._begin, task.data["seed"])
        asked = (
            "" if self._actions is None else f"Answer with one of these actions: {', '.join(self._names)}."
        )
        told = "\n".join(text for text in (self._instructions, asked) if text)
        return Observation([*([system(told)] if told else []), user(shown)])

    async def step(self, action: Message) -> StepResult:
        chosen = self._chosen(action["content"])
        if chosen is None:
            # With a reward: an agent that never names one is scored too.
            again = f"That is no action. The actions are: {', '.join(self._names)}."
            return StepResult([user(again)], reward=0.0)
        shown, reward, done = await call_blocking(self._go, chosen)
        self._steps += 1
        self._return += reward
        return StepResult([user(shown)], done, self.outcome() if done else {}, reward)

    def outcome(self) -> dict[str, Any]:
        return {"success": self._return > self._least, "score": self._return, "steps": self._steps}

    async def close(self) -> None:
        game, self._game = self._game, None
        if game is not None:
            await call_blocking(game.close)

    def _begin(self, seed: int) -> str:
        library = _library()
        picture = {"render_mode": "ansi"} if self._show == "render" else {}
        # Its checker warns of what a model says that is not in a Text space.
        self._game = library.make(self._id, disable_env_checker=True, **picture, **self._options)
        space = self._game.action_space
        if isinstance(space, library.spaces.Discrete):
            numbers = range(int(space.start), int(space.start + space.n))
            names = self._named or tuple(str(number) for number in numbers)
            if len(names) != len(numbers):
                raise ValueError(f"actions: {len(names)} names for the {len(numbers)} actions of {self._id}")
            self._actions = {name.lower(): number for name, number in zip(names, numbers, strict=True)}
        elif not isinstance(space, library.spaces.Text):
            raise ValueError(f"id: the actions of {self._id} are {space}, neither Discrete nor Text")
        observation, _ = self._game.reset(seed=seed)
        return self._shown(observation)

    def _go(self, action: Any) -> tuple[str, float, bool]:
        observation, reward, terminated, truncated, _ = self._game.step(action)
        return self._shown(observation), float(reward), bool(terminated or truncated)

    def _shown(self, observation: Any) -> str:
        if self._show == "observation":
            return str(observation)
        picture = _HIGHLIGHT.sub(r"[\1]", str(self._game.render()))
        return _COLOUR.sub("", picture).strip("\n")

    def _chosen(self, said: str) -> Any:
        """The action that was named last; None if none was."""
        if self._actions is None:
            return said
        names = "|".join(re.escape(name) for name in sorted(self._actions, key=len, reverse=True))
        found = re.findall(rf"(?<!\w)(?:{names})(?!\w)", said.lower())
        return self._actions[found[-1]] if found else None

    @property
    def _names(self) -> list[str]:
        return list(self._named or self._actions or ())


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import gymnasium
    except ImportError as problem:
        raise MissingExtraError("the environment gymnasium", "gymnasium", "gymnasium") from problem
    return gymnasium
