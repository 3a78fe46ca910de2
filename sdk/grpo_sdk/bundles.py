"""Several tools that are opened and closed together: once for a run, or anew for each episode."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from contextvars import Context, ContextVar, Token
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from grpo_sdk.deadline import Deadline
from grpo_sdk.errors import PluginError

if TYPE_CHECKING:
    from grpo_sdk.messages import ToolSchema
    from grpo_sdk.tools import BoundTool, ToolLike

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
"""How long a bundle may take to close."""
RESTARTS = 3
"""How often in a row a bundle is opened again without an answer of one of its tools."""

Tools: TypeAlias = "ToolLike | Sequence[ToolLike]"
Opening: TypeAlias = "Tools | Awaitable[Tools] | AbstractAsyncContextManager[Tools]"


class ToolsLostError(Exception):
    """What a bundle's tools live on is gone, such as a server that died: a tool of the bundle raises it.

    The call is not made again. The episode is failed and not scored; the next call opens the bundle again.
    """


@dataclass(frozen=True, slots=True)
class ToolBundle:
    """What a tool factory returns if its tools are several, or have to be opened and closed."""

    open: Callable[[], Opening]
    """Gives the tools: a function, a coroutine, or an async context manager (made with
    ``contextlib.asynccontextmanager``), which one task enters and leaves."""
    per: Literal["run", "episode"] = "run"
    """``run``: one opening, which all episodes share, or all conversations of a server. ``episode``: one for
    each episode in which such a tool is called; if the agent is served, for each answer."""
    seconds: float = 60.0
    """How long opening may take. It does not count as time of a tool's call."""
    about: str = ""
    """What messages call it besides the factory's name, such as the address of its server."""


def as_bundle(made: object, again: Callable[[], Any]) -> ToolBundle | None:
    """The bundle that a tool factory ``made``; None if what it made needs no opening.

    A factory that is itself a coroutine or an async context manager is called ``again`` by each opening.
    """
    if isinstance(made, ToolBundle):
        return made
    if inspect.iscoroutine(made):
        made.close()
        return ToolBundle(again)
    return ToolBundle(again) if isinstance(made, AbstractAsyncContextManager) else None


async def bundle_schemas(name: str, bundle: ToolBundle) -> list[ToolSchema]:
    """What the model is shown of the tools of ``bundle``, which is opened and closed for that.

    Raises ``PluginError`` if it cannot be opened.
    """
    opened = _Opened(name, bundle)
    try:
        return [tool.schema for tool in (await opened.tools()).values()]
    finally:
        await opened.close()


class EpisodeTools:
    """``async with EpisodeTools():`` an episode, or an answer; at its end, its bundles are closed."""

    def __init__(self) -> None:
        self.opened: dict[LiveBundle, _Opened] = {}
        self.problem: str | None = None
        """Why a bundle could not be had, if one could not."""

    async def __aenter__(self) -> EpisodeTools:
        self._token: Token[EpisodeTools | None] = _EPISODE.set(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ValueError):  # an answer that nobody awaits any more is ended in another context
            _EPISODE.reset(self._token)
        if self.opened:
            await _close_all(self.opened.values())


_EPISODE: ContextVar[EpisodeTools | None] = ContextVar("grpo_episode_tools", default=None)


def tools_of_answer() -> AbstractAsyncContextManager[Any]:
    """An ``EpisodeTools`` for one answer; nothing within an episode, whose answers share its tools."""
    return EpisodeTools() if _EPISODE.get() is None else nullcontext()


class LiveBundle:
    """A bundle that can be used: its ``tools`` are there at once, and a call of one opens it.

    ``schemas`` are what ``bundle_schemas`` gave.
    """

    def __init__(self, name: str, bundle: ToolBundle, schemas: Sequence[ToolSchema]) -> None:
        from grpo_sdk.tools import BoundTool

        self.name = name
        self.bundle = bundle
        self._of_loops: MutableMapping[Any, _Opened] = WeakKeyDictionary()
        self._in_use: set[int] = set()
        names = [schema["function"]["name"] for schema in schemas]
        self.tools = tuple(
            BoundTool(name, schema, partial(self._run, name), self, ready=self.start_here)
            for name, schema in zip(names, schemas, strict=True)
        )

    async def start(self) -> None:
        """Open it if it is opened once a run. Raises ``PluginError`` if it cannot be."""
        if self.bundle.per == "run":
            await self.start_here()

    async def start_here(self) -> None:
        """Open it if it is not open here. Raises ``PluginError`` if it cannot be."""
        await self._here().tools()

    async def close(self) -> None:
        """Close what is open for the run."""
        here = asyncio.get_running_loop()
        for loop, opened in list(self._of_loops.items()):
            if loop is here:
                await opened.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(opened.close(), loop))
        self._of_loops.clear()

    async def _run(self, name: str, arguments: dict[str, Any]) -> Any:
        opened = self._here()
        tools = await opened.tools()
        if name not in tools:
            raise PluginError(
                f'{self.name} offers no "{name}" any more; it has: {", ".join(tools) or "none"}'
            )
        try:
            result = await tools[name].run(arguments)
        except ToolsLostError as problem:
            opened.lose(str(problem))
            raise
        opened.answered()
        return result

    def _here(self) -> _Opened:
        """The opening that belongs to this run or episode."""
        places: MutableMapping[Any, _Opened] = self._of_loops
        place: object = asyncio.get_running_loop()
        in_use = None
        if self.bundle.per == "episode":
            episode = _EPISODE.get()
            if episode is None:
                raise PluginError(f"{self.name} is opened for each episode, and this call belongs to none")
            places, place, in_use = episode.opened, self, self._in_use
        opened = places.get(place)
        if opened is None or opened.to_be_opened_again:
            opened = places[place] = _Opened(self.name, self.bundle, in_use, before=opened)
        return opened


class _Opened:
    """A bundle while it is open: a task of its own opens it, holds it, and closes it.

    ``in_use`` are the tools of the other openings, if none may be shared. ``before`` is one that was lost.
    """

    def __init__(
        self, name: str, bundle: ToolBundle, in_use: set[int] | None = None, before: _Opened | None = None
    ) -> None:
        self._name = f"{name} ({bundle.about})" if bundle.about else name
        self._bundle = bundle
        self._in_use = in_use
        self._restarts: int = 0 if before is None else before._restarts + 1
        self._end = asyncio.Event()
        self._why: str | None = None
        self._tools: asyncio.Future[dict[str, BoundTool]] = asyncio.get_running_loop().create_future()
        self._tools.add_done_callback(lambda tools: tools.cancelled() or tools.exception())  # is looked at
        # Without the context of the episode that happens to be the first.
        self._task = asyncio.get_running_loop().create_task(self._hold(before), context=Context())

    @property
    def to_be_opened_again(self) -> bool:
        return self._why is not None and self._restarts < RESTARTS

    async def tools(self) -> dict[str, BoundTool]:
        """The tools by name. Raises ``PluginError`` if the bundle could not be opened, or is gone."""
        try:
            tools = await asyncio.shield(self._tools)
            if self._why is not None:
                again = f"; it was opened {self._restarts} times again" if self._restarts else ""
                raise PluginError(f"{self._name} is gone: {self._why}{again}")
        except PluginError as problem:
            _tell_episode(str(problem))
            raise
        return tools

    def lose(self, why: str) -> None:
        """Take note that what its tools live on is gone."""
        if self._why is None:
            self._why = why
            logger.warning("%s is gone: %s", self._name, why)
        _tell_episode(f"{self._name} is gone: {why}")

    def answered(self) -> None:
        """Take note that a tool works."""
        self._restarts = 0

    def end(self) -> None:
        """Let the task close it."""
        self._end.set()
        if not self._tools.done():
            self._task.cancel()

    async def close(self) -> None:
        """Close it, within ``CLOSE_SECONDS``. What its own code raises is logged."""
        self.end()
        await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if not self._task.done():
            logger.warning("%s did not close within %g s", self._name, CLOSE_SECONDS)
            self._task.cancel()

    async def _hold(self, before: _Opened | None) -> None:
        claimed: set[int] = set()
        try:
            if before is not None:
                await before.close()
            async with AsyncExitStack() as stack:
                with Deadline(self._bundle.seconds):
                    tools = await self._given(stack)
                claimed |= self._claimed(tools)
                self._tools.set_result(tools)
                await self._end.wait()
        except BaseException as problem:
            self._ended_by(problem)
            if isinstance(problem, asyncio.CancelledError | KeyboardInterrupt):
                raise
        finally:
            if self._in_use is not None:
                self._in_use -= claimed

    async def _given(self, stack: AsyncExitStack) -> dict[str, BoundTool]:
        from grpo_sdk.tools import bind

        given: Any = self._bundle.open()
        if isinstance(given, AbstractAsyncContextManager):
            given = await stack.enter_async_context(given)
        elif inspect.isawaitable(given):
            given = await given
        tools: dict[str, BoundTool] = {}
        for tool in map(bind, given if isinstance(given, list | tuple) else [given]):
            if tool.name in tools:
                raise ValueError(f'two of its tools are called "{tool.name}"; rename one of them')
            tools[tool.name] = tool
        return tools

    def _claimed(self, tools: dict[str, BoundTool]) -> set[int]:
        """The identities of ``tools``, which no other opening may have."""
        if self._in_use is None:
            return set()
        found = {}
        for name, tool in tools.items():
            made = tool.run if tool.source is None else tool.source
            found[name] = id(getattr(made, "__self__", made))  # of a method, its object
        for name, identity in found.items():
            if identity in self._in_use:
                raise ValueError(
                    f'its open() gave the same tool "{name}" to two episodes, which would share its state; '
                    'make the tool within open(), or say per="run"'
                )
        self._in_use |= set(found.values())
        return set(found.values())

    def _ended_by(self, problem: BaseException) -> None:
        text = _said(problem)
        if not self._tools.done():
            if isinstance(problem, TimeoutError):
                text = f"it took more than {self._bundle.seconds:g} s"
            self._why = f"it could not be opened: {text}"
            error = PluginError(f"{self._name} could not be opened: {text}")
            error.__cause__ = problem
            self._tools.set_exception(error)
        elif self._why is not None:
            return  # it is gone, which has been said
        elif self._end.is_set():
            logger.warning("%s: closing it failed: %s", self._name, text)
        else:
            self._why = text
            logger.warning("%s is gone: %s", self._name, text)


def _said(problem: BaseException) -> str:
    """``problem`` on one line; of a task group's, the first."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _tell_episode(problem: str) -> None:
    episode = _EPISODE.get()
    if episode is not None and episode.problem is None:
        episode.problem = problem


async def _close_all(opened: Collection[_Opened]) -> None:
    for item in opened:
        item.end()
    for item in opened:
        await item.close()
