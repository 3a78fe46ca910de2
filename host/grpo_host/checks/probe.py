"""Find out what an environment offers: its tasks, and the tools of an episode. Plays nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from grpo_host.plugins.failures import described, plugin_frame
from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import as_messages
from grpo_sdk.trajectory import Task

_PYTHON = sysconfig.get_path("stdlib") + "/"

LOOK_SECONDS = 0.1
IMPORT_SECONDS = 600.0
"""What importing may take, which is no time of the environment's: a heavy library on a busy machine."""


@dataclass
class EnvironmentFacts:
    """The facts that a probe found."""

    tasks: dict[str, list[str]] = field(default_factory=dict)
    """Split → ids of its tasks."""
    tools: list[str] = field(default_factory=list)
    undescribed: list[str] = field(default_factory=list)
    """Those of which the model is told nothing but the name."""
    demonstrations: int = 0
    """Dialogues for a warm start."""
    error: str | None = None
    """Why the probe found no more."""
    doing: str = "making it"
    """What it was asked last."""
    start_seconds: float = 0.0
    """How long the environment says that it may take."""
    data: set[str] = field(default_factory=set)
    """The names in the data of its tasks; not every task need have all."""

    def mixed(self, name: str, other: EnvironmentFacts) -> EnvironmentFacts:
        """These facts of a mixture, with those of its environment ``name``."""
        tasks = {split: list(ids) for split, ids in self.tasks.items()}
        for split, ids in other.tasks.items():
            tasks.setdefault(split, []).extend(f"{name}/{id_}" for id_ in ids)
        return EnvironmentFacts(
            tasks=tasks,
            tools=list(dict.fromkeys([*self.tools, *other.tools])),
            undescribed=list(dict.fromkeys([*self.undescribed, *other.undescribed])),
            demonstrations=self.demonstrations + other.demonstrations,
            error=self.error or other.error,
        )

    def take(self, tools: Sequence[Any]) -> None:
        """Keep the names of the environment's ``tools``. Raises as ``bind`` does."""
        from grpo_sdk.tools import bind

        bound = [bind(tool) for tool in tools]
        self.tools = [tool.name for tool in bound]
        self.undescribed = [tool.name for tool in bound if not tool.described]


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
            facts.error = f"{facts.doing}: {described(error)}"

    # A thread, since a blocking reset() would not let an event loop's time limit through.
    thread = threading.Thread(target=work, name="environment-probe", daemon=True)
    thread.start()
    spent = imports = 0.0
    while thread.is_alive() and spent < (seconds := max(seconds, facts.start_seconds)):
        if imports > IMPORT_SECONDS:
            seconds = IMPORT_SECONDS
            break
        since = time.monotonic()
        thread.join(LOOK_SECONDS)
        if _imports(thread):
            imports += time.monotonic() - since
        else:
            spent += time.monotonic() - since
    if thread.is_alive():
        return EnvironmentFacts(dict(facts.tasks), error=_too_slow(facts.doing, thread, seconds))
    return facts


def _frames(thread: threading.Thread) -> list[FrameType]:
    """Where ``thread`` is, the innermost last."""
    frame, frames = sys._current_frames().get(thread.ident or 0), list[FrameType]()
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames


def _imports(asking: threading.Thread) -> bool:
    """Whether the probe's thread, or one that a plugin's blocking call was given to, imports something."""
    threads = [asking, *(other for other in threading.enumerate() if other.name.startswith("blocking-"))]
    files = [frame.f_code.co_filename for thread in threads for frame in _frames(thread)]
    return any(file.startswith("<frozen importlib") for file in files)


def _too_slow(doing: str, thread: threading.Thread, seconds: float) -> str:
    calls = [(frame.f_code.co_filename, frame.f_lineno) for frame in _frames(thread)]
    place = plugin_frame([call for call in calls if not call[0].startswith(_PYTHON)])
    return (
        f"no answer within {seconds:g} s from {doing}{f' (at {place})' if place else ''}. Nothing failed: "
        "if it is slow and not stuck, set agent.limits.probe_seconds higher"
    )


async def _ask(
    make: Callable[[], Environment],
    splits: Collection[str],
    demonstrations: bool,
    facts: EnvironmentFacts,
) -> None:
    from grpo_sdk.blocking import awaited, settled

    environment = make()
    facts.start_seconds = environment.start_seconds
    try:
        first = None
        for split in splits:
            facts.doing = f'tasks("{split}")'
            tasks = _tasks(environment, split)
            if [task.id for task in _tasks(environment, split)] != [task.id for task in tasks]:
                raise ValueError("they are others when asked for again; they must be stable")
            facts.tasks[split] = [task.id for task in tasks]
            facts.data.update(*(task.data for task in tasks))
            if tasks and (first is None or split == TRAIN):
                first = tasks[0]
        if demonstrations:
            facts.doing = "demonstrations()"
            facts.demonstrations = len(environment.demonstrations(TRAIN))
        if first is not None:
            facts.doing = "reset()"
            observation = await awaited(environment.reset(first, seed=0), "reset")
            if not isinstance(observation, Observation):
                raise TypeError(f"it must return an Observation, not {type(observation).__name__}")
            as_messages(observation.messages)
            facts.doing = "tools()"
            facts.take(_listed(await settled(environment.tools()), "tools"))
    except BaseException:
        with contextlib.suppress(Exception):
            await environment.close()
        raise
    facts.doing = "close()"
    await awaited(environment.close(), "close")


async def _ask_for_serving(make: Callable[[], Environment], facts: EnvironmentFacts) -> None:
    environment = make()
    facts.start_seconds = environment.start_seconds
    try:
        facts.doing = "serving_tools()"
        facts.take(_listed(environment.serving_tools(), "tools"))
    finally:
        await environment.close()


def _tasks(environment: Environment, split: str) -> list[Task]:
    try:
        given = environment.tasks(split)
    except Exception:
        if split in (TRAIN, HELD_OUT):
            raise
        return []  # an environment may raise for a split that it does not have
    tasks = _listed(given, "grpo_sdk.Task")
    if other := next((task for task in tasks if not isinstance(task, Task)), None):
        raise TypeError(f"it must return a list of grpo_sdk.Task, and {other!r:.80} is none")
    return list(tasks)


def _listed(given: Any, what: str) -> Sequence[Any]:
    """``given``, which is a list. Raises ``TypeError`` if it is, say, a generator, which ends once."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return given
    if isinstance(given, Coroutine):
        given.close()
    raise TypeError(
        f"it must return a list of {what}, not {'None' if given is None else type(given).__name__}"
    )
