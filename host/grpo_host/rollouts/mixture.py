"""A mixture of environments: each task is played in the one that it comes from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from grpo_sdk.blocking import settled
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message
from grpo_sdk.tools import ToolLike, as_tool
from grpo_sdk.trajectory import Task

logger = logging.getLogger(__name__)


class Mixture(Environment):
    """Plays each task in one of ``members``, with that environment's tools and instructions.

    A task's id and kind begin with its environment's name. Splits take the environments in turn, so that
    the first tasks of a split are of all of them.
    """

    def __init__(self, members: Mapping[str, Callable[[], Environment]]) -> None:
        self._members = members
        self._playing: Environment | None = None
        self._serving: list[Environment] = []

    @property
    def members(self) -> Iterator[tuple[str, Environment]]:
        """Each environment, made anew, by its name."""
        return ((name, make()) for name, make in self._members.items())

    def tasks(self, split: str) -> Sequence[Task]:
        """Those of all environments in turn. Raises ``ValueError`` if one has no such split."""
        columns = [
            [
                replace(task, id=f"{name}/{task.id}", kind=f"{name}/{task.kind}".rstrip("/"))
                for task in environment.tasks(split)
            ]
            for name, environment in self.members
        ]
        return [task for row in zip_longest(*columns) for task in row if task is not None]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        name, _, own = task.id.partition("/")
        self._playing = self._members[name]()
        kind = task.kind.partition("/")[2]
        return await self._playing.reset(replace(task, id=own, kind=kind), seed=seed)

    async def step(self, action: Message) -> StepResult:
        return await self._played.step(action)

    def follow(self, messages: Sequence[Message]) -> None:
        self._played.follow(messages)

    async def tools(self) -> Sequence[ToolLike]:
        return await settled(self._played.tools())

    def serving_tools(self) -> Sequence[ToolLike]:
        """Those of all environments. If two offer one name, the first has it, which is logged."""
        found: dict[str, ToolLike] = {}
        for name, environment in self.members:
            self._serving.append(environment)
            for tool in environment.serving_tools():
                label = as_tool(tool).name
                if label in found:
                    logger.warning(
                        'the served agent\'s tool "%s" is that of an earlier environment, not of "%s"',
                        label,
                        name,
                    )
                found.setdefault(label, tool)
        return list(found.values())

    def outcome(self) -> dict[str, object]:
        return self._played.outcome()

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        return list(chain.from_iterable(env.demonstrations(split) for _, env in self.members))

    async def close(self) -> None:
        for environment in (*self._serving, *([self._playing] if self._playing else [])):
            await environment.close()

    @property
    def _played(self) -> Environment:
        if self._playing is None:
            raise RuntimeError("a mixture plays nothing before reset()")
        return self._playing


def environment_of(task: Task) -> str:
    """The name of the environment that plays ``task``, which is a mixture's."""
    return task.id.partition("/")[0]
