"""Find out what an environment offers: its tasks, and the tools of an episode. Plays nothing."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from grpo_host.plugins.failures import described, plugin_frame
from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import as_messages
from grpo_sdk.trajectory import Task

_PYTHON = sysconfig.get_path("stdlib") + "/"


@dataclass
class EnvironmentFacts:
    """The facts that a probe found."""

    tasks: dict[str, list[str]] = field(default_factory=dict)
    """Split → ids of its tasks."""
    tools: list[str] = field(default_factory=list)
    demonstrations: int = 0
    """Dialogues for a warm start."""
    error: str | None = None
    """Why the probe found no more."""
    doing: str = "being made"
    """What it was asked last."""
    start_seconds: float = 0.0
    """How long the environment says that it may take."""

    def mixed(self, name: str, other: EnvironmentFacts) -> EnvironmentFacts:
        """These facts of a mixture, with those of its environment ``name``."""
        tasks = {split: list(ids) for split, ids in self.tasks.items()}
        for split, ids in other.tasks.items():
            tasks.setdefault(split, []).extend(f"{name}/{id_}" for id_ in ids)
        return EnvironmentFacts(
            tasks,
            list(dict.fromkeys([*self.tools, *other.tools])),
            self.demonstrations + other.demonstrations,
            self.error or other.error,
        )


def probe_environment(
    make: Callable[[], Environment],
    splits: Collection[str],
    *,
    demonstrations: bool = False,
    seconds: float,
) -> EnvironmentFacts:
    """Make an environment, list ``splits``, and reset it to its first train task for its tools.

    Never raises: what fails, or takes longer than ``seconds``, is the ``error``.
    """
    facts = EnvironmentFacts()
    return _found(_ask(make, splits, demonstrations, facts), facts, seconds)


def probe_serving_tools(make: Callable[[], Environment], *, seconds: float) -> EnvironmentFacts:
    """Make an environment for its serving tools only; otherwise as ``probe_environment``."""
    facts = EnvironmentFacts()
    return _found(_ask_for_serving(make, facts), facts, seconds)


def _found(asking: Coroutine[Any, Any, None], facts: EnvironmentFacts, seconds: float) -> EnvironmentFacts:
    def work() -> None:
        try:
            asyncio.run(asking)
        except GrpoError as error:
            facts.error = str(error)
        except BaseException as error:
            facts.error = described(error)

    # A thread, since a blocking reset() would not let an event loop's time limit through.
    thread = threading.Thread(target=work, name="environment-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and facts.start_seconds > seconds:
        thread.join(facts.start_seconds - seconds)
        seconds = facts.start_seconds
    if thread.is_alive():
        return EnvironmentFacts(dict(facts.tasks), error=_too_slow(facts.doing, thread, seconds))
    return facts


def _too_slow(doing: str, thread: threading.Thread, seconds: float) -> str:
    frame, calls = sys._current_frames().get(thread.ident or 0), list[tuple[str, int]]()
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PYTHON):
            calls.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    place = plugin_frame(calls)
    return (
        f"no answer within {seconds:g} s, while {doing}{f' (at {place})' if place else ''}. Nothing failed: "
        "if it is slow and not stuck, set agent.limits.probe_seconds higher"
    )


async def _ask(
    make: Callable[[], Environment],
    splits: Collection[str],
    demonstrations: bool,
    facts: EnvironmentFacts,
) -> None:
    from grpo_sdk.blocking import settled
    from grpo_sdk.tools import bind

    environment = make()
    facts.start_seconds = environment.start_seconds
    try:
        first = None
        for split in splits:
            facts.doing = f'listing tasks("{split}")'
            tasks = _tasks(environment, split)
            if not all(isinstance(task, Task) for task in tasks):
                raise TypeError(f'tasks("{split}") returned something that is no grpo_sdk.Task')
            if [task.id for task in _tasks(environment, split)] != [task.id for task in tasks]:
                raise ValueError(f'tasks("{split}") are others when asked for again; they must be stable')
            facts.tasks[split] = [task.id for task in tasks]
            if tasks and (first is None or split == TRAIN):
                first = tasks[0]
        if demonstrations:
            facts.doing = "asked for demonstrations()"
            facts.demonstrations = len(environment.demonstrations(TRAIN))
        if first is not None:
            facts.doing = "in reset()"
            observation = await environment.reset(first, seed=0)
            if not isinstance(observation, Observation):
                raise TypeError(f"reset() must return an Observation, not {type(observation).__name__}")
            as_messages(observation.messages)
            facts.doing = "asked for tools()"
            facts.tools = [bind(tool).name for tool in await settled(environment.tools())]
    finally:
        facts.doing = "in close()"
        await environment.close()


async def _ask_for_serving(make: Callable[[], Environment], facts: EnvironmentFacts) -> None:
    from grpo_sdk.tools import bind

    environment = make()
    facts.start_seconds = environment.start_seconds
    try:
        facts.doing = "asked for serving_tools()"
        facts.tools = [bind(tool).name for tool in environment.serving_tools()]
    finally:
        await environment.close()


def _tasks(environment: Environment, split: str) -> list[Task]:
    try:
        return list(environment.tasks(split))
    except Exception:
        if split in (TRAIN, HELD_OUT):
            raise
        return []  # an environment may raise for a split that it does not have
