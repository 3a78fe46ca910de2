"""Episodes that begin with a prompt: an environment of prompts, around an object that answers steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from grpo_sdk.blocking import settled
from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation, StepResult
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, user
from grpo_sdk.trajectory import Task

WORDS = ("message", "observation")
"""The entries of a step's answer that are the user's next words."""
OPENING_WORDS = (*WORDS, "prompt", "state")
"""The entries of a reset's answer that can open an episode for which there is no prompt."""
HELD_OUT_EVERY = 5
"""One prompt in so many is held out, if there are that many."""
UNPROMPTED = 64
"""Tasks of a split where episodes open with the environment's own words."""


@runtime_checkable
class Stepwise(Protocol):
    """``reset() -> dict`` and ``step(action) -> dict``, as plain methods or coroutines."""

    def reset(self) -> Any: ...
    def step(self, action: str) -> Any: ...


class PromptEnvironment(Environment):
    """The user says a prompt; ``inner`` answers what the agent says to it.

    ``inner.reset()`` gives facts; ``messages`` among them stand before the prompt. If there is
    no prompt, its first of ``OPENING_WORDS`` opens the episode. ``inner.step(text)`` gives
    ``reward``, ``done``, the user's next words as ``message`` (or ``observation``, or whole
    ``messages``), and facts, which are the episode's outcome. An episode ends if it says ``done`` or
    nothing more to the agent. If ``inner`` has an attribute ``prompt``, it is set to the episode's.
    """

    def __init__(
        self, inner: Stepwise, prompts: Sequence[str] = (), held_out: Sequence[str] | None = None
    ) -> None:
        self._inner = inner
        self._prompts = split_prompts(prompts, held_out)
        self._facts: dict[str, Any] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        prompts = self._prompts.get(split, ())
        if prompts or any(self._prompts.values()):
            return [prompt_task(prompt, f"{split}-{i}", split) for i, prompt in enumerate(prompts)]
        if split != TRAIN:
            return []  # all begin alike: nothing would be held out
        return [Task(f"{split}-{index}", split=split) for index in range(UNPROMPTED)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        prompt = task.data.get("prompt")
        if hasattr(self._inner, "prompt"):
            self._inner.prompt = prompt or ""
        given = _entries("reset", await settled(self._inner.reset()))
        messages = list(given.pop("messages", ()))
        self._facts = dict(given)
        if prompt is not None:
            messages.append(user(prompt))
        elif not messages:
            messages.append(user(_opening(given)))
        return Observation(messages)

    async def step(self, action: Message) -> StepResult:
        given = _entries("step", await settled(self._inner.step(action["content"])))
        said: list[Message] = list(given.pop("messages", ()))
        words = next((given.pop(name) for name in WORDS if name in given), None)
        if words is not None:
            said.append(user(str(words)))
        reward = float(given.pop("reward")) if "reward" in given else None
        self._facts.update(given)
        return StepResult(said, bool(given.get("done")) or not said, dict(self._facts), reward)

    def outcome(self) -> dict[str, Any]:
        return self._facts

    async def close(self) -> None:
        close = getattr(self._inner, "close", None)
        if callable(close):
            await settled(close())


def prompt_task(prompt: str, id: str, split: str = TRAIN) -> Task:
    """The task of answering ``prompt``."""
    return Task(id, {"prompt": prompt}, split)


def split_prompts(prompts: Sequence[str], held_out: Sequence[str] | None) -> dict[str, list[str]]:
    """Prompts to train on and to measure with.

    ``held_out`` None: every ``HELD_OUT_EVERY``-th of ``prompts``; none if there are fewer.
    """
    distinct = list(dict.fromkeys(prompts))
    if held_out is None:
        held_out = distinct[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    kept = set(held_out)
    return {TRAIN: [p for p in distinct if p not in kept], HELD_OUT: list(dict.fromkeys(held_out))}


def as_environment(
    environment: object, prompts: Sequence[str] = (), held_out: Sequence[str] | None = None
) -> Callable[[], Environment]:
    """What makes a fresh environment for each episode: they run side by side.

    ``environment`` is a class or function that makes one, or one that is deep-copied for each
    episode; either an environment of the SDK or an object that answers steps. Raises
    ``ConfigError`` for anything else.
    """
    make = environment if _is_factory(environment) else lambda: copy.deepcopy(environment)

    def fresh() -> Environment:
        made = make()  # type: ignore[operator]
        return made if isinstance(made, Environment) else PromptEnvironment(made, prompts, held_out)

    try:
        made = make()  # type: ignore[operator]
    except Exception as problem:
        raise ConfigError(
            f"environment: cannot make a copy of {type(environment).__name__} for each episode "
            f"({type(problem).__name__}: {problem}). Give a class or a function that makes one"
        ) from problem
    if not isinstance(made, Environment | Stepwise):
        raise ConfigError(
            f"environment: {type(made).__name__} is no environment. Give an object with "
            "async reset() and async step(action), which return dictionaries"
        )
    return fresh


def _is_factory(environment: object) -> bool:
    return isinstance(environment, type) or (
        callable(environment) and not isinstance(environment, Environment | Stepwise)
    )


def _entries(method: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{method}() returned {given!r:.80}; it is to return a dictionary")
    return dict(given)


def _opening(given: Mapping[str, Any]) -> str:
    words = next((given[name] for name in OPENING_WORDS if given.get(name)), None)
    if words is None:
        raise ValueError(
            "the episode has no prompt, and reset() returned nothing that opens it "
            f"({', '.join(OPENING_WORDS)}); give prompts"
        )
    return str(words)
