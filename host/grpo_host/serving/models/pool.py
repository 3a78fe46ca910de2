"""The models that a server answers with: the agent's own, and every adapter that its runs have trained.

A model is loaded when it is first asked for. One that crashes or hangs is closed, what asked it gets
a 503, and the next request loads it anew.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.session import whole_reply
from grpo_host.assembly.agent import limits_from_config, local_model_from_config, sampling_from_config
from grpo_host.assembly.from_yaml import build_strategy
from grpo_host.assembly.served_tools import ServedTools, lacks_tools_of_episodes, served_tools
from grpo_host.backends.lifetime import close_backends
from grpo_host.backends.local_model import AUTO, LocalModel
from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.config.served_sampling import UNMEASURED, filled_up, sampling_of_run, served_sampling
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.plugins.options import resolve_use
from grpo_host.plugins.use import ModelConfig, PluginUse
from grpo_host.runs.directory import RunDirectory
from grpo_host.serving.http.readiness import listens
from grpo_host.serving.models.catalogue import Catalogue, Entry
from grpo_host.serving.services import Part, Services
from grpo_sdk.backend import Backend, Capability, ChatReply, ModelSpec, Sampling, TokenReply
from grpo_sdk.deadline import Deadline
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.strategy import Strategy

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.langchain.app_backend import ServedApp
    from grpo_host.plugins import Registry

logger = logging.getLogger("grpo_host.serving")

T = TypeVar("T")

DEFAULT_MODEL = "smollm2-135m"
"""Served if there is no agent.yaml."""
SILENCE_SECONDS = 120.0
"""How long a model may say nothing before it counts as hung, where agent.yaml does not tell."""
CLOSE_SECONDS = 10.0
RETRY_SECONDS = 5.0
LONGEST_PAUSE = 60.0
_JITTER = random.SystemRandom()  # not ``random`` itself, which engines seed alike in every process


@dataclass
class _Slot:
    """A model that is loaded, or being loaded."""

    entry: Entry
    model: LocalModel | _RemoteModel
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    heard: float = -math.inf
    """When it last said something to anybody."""
    started: bool = False
    broken: bool = False


class ModelPool(Part):
    """Leases started agents by the name of a model; at most ``most`` models are loaded at once."""

    def __init__(self, services: Services) -> None:
        loaded = services.loaded
        config = loaded.config if loaded else None
        self._model = config.model if config else ModelConfig(name=DEFAULT_MODEL, context=2048)
        self._backend = config.backend if config else PluginUse(name=AUTO)
        self._registry = services.registry
        self.strategy = build_strategy(loaded) if loaded else Strategy("plain")
        """The agent's own."""
        self.limits = limits_from_config(config.agent.limits) if config else AgentLimits()
        self._seconds = config.agent.limits.turn_seconds if config else SILENCE_SECONDS
        self._most = services.settings.max_models
        self.usage = services.usage
        self._slots: dict[str, _Slot] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._warming: asyncio.Task[None] | None = None
        self._unready: str | None = "loading the model"
        self.served = served_tools(loaded) if loaded else ServedTools()
        """All that is open here."""
        self.tools = self.served
        """What agents may call here."""
        self.agents_tools = self.tools.of(self.strategy)
        """What the agent may call under its own strategy."""
        self._app = self._served_app(config)
        if self._app is not None:  # they are the app's
            self.tools, self.agents_tools = ServedTools(), ()
        for name in lacks_tools_of_episodes(loaded) if loaded else ():
            logger.warning(
                'the environment "%s" has tools in its episodes and offers none for serving: the served '
                "agent has to do without. Its serving_tools() would offer them, see docs/plugins.md",
                name,
            )
        run = None
        if which := services.settings.run:
            runs, agent = services.settings.runs, services.settings.agent
            run = RunDirectory.find(runs, agent, which, trained=True)
        self.catalogue = Catalogue(services.settings, self._model, run=run, runs=self._is_local())
        self._said = services.settings.sampling
        self._measured = served_sampling(config) if config else UNMEASURED
        self._samplings: dict[str, Sampling] = {}
        self.sampling(self.catalogue.find(None))  # what is wrong with it is said before anyone asks

    def _served_app(self, config: AgentConfig | None) -> ServedApp | None:
        """The app that is the agent, if it is one."""
        if config is None or config.agent.runnable is None:
            return None
        from grpo_host.langchain.app_backend import ServedApp
        from grpo_sdk.tools import as_tool

        tools = [as_tool(tool) for tool in self.agents_tools]
        return ServedApp(config.agent, self.limits, tools)

    def sampling(self, entry: Entry) -> Sampling:
        """How ``entry`` is sampled if a request does not say: as it was measured in its run.

        What agent.yaml says in ``serving.sampling`` comes first. Raises ``ConfigError`` if the run's own
        agent.yaml cannot be read.
        """
        known = self._samplings.get(entry.id)
        if known is None:
            measured = self._measured
            if entry.run is not None and (entry.run / "agent.yaml").is_file():
                measured = sampling_of_run(entry.run / "agent.yaml")
            known = sampling_from_config(filled_up(self._said, measured))
            self._samplings[entry.id] = known
        return known

    async def start(self) -> None:
        self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        for pause in warm_pauses():
            try:
                async with self.lease():
                    return
            except Exception as problem:
                logger.error("the model cannot be loaded, trying again in %.1f s: %s", pause, problem)
                self._unready = "the model cannot be loaded now"  # anyone may ask; the log says why
            await asyncio.sleep(pause)

    def unready(self) -> str | None:
        return self._unready

    async def unreachable(self) -> str | None:
        """Whether the agent's model can be reached, if a server elsewhere has it."""
        slot = self._slots.get(self.catalogue.find(None).id)
        url = slot.model.url if slot is not None and isinstance(slot.model, _RemoteModel) else None
        return None if url is None or await listens(url) else "the model's server cannot be reached"

    async def close(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
        slots = list(self._slots.values())
        self._slots.clear()
        ends = [asyncio.ensure_future(slot.model.close()) for slot in slots]
        if self._app is not None:
            self._app.close()
        ends.append(asyncio.ensure_future(self.served.close()))
        await asyncio.gather(*ends, *self._closing, return_exceptions=True)

    @asynccontextmanager
    async def lease(self, name: str | None = None) -> AsyncIterator[Lease]:
        """The started model called ``name``, or the agent's own.

        Raises ``ApiError``: 404 for a name that is not in the catalogue, 503 if it cannot be had now.
        """
        slot = self._slot(self.catalogue.find(name))
        slot.users += 1
        try:
            yield Lease(slot.entry, await self._started(slot))
        finally:
            slot.users -= 1
            slot.used = time.monotonic()

    async def _started(self, slot: _Slot) -> Agent:
        if self._closing and not slot.started:  # there may not be room for both
            await asyncio.wait(set(self._closing))
        try:
            agent = await slot.model.agent()
        except GrpoError:
            self._drop(slot)
            raise
        except Exception as problem:
            self._break(slot, problem)
            raise ApiError(
                503, "model_unavailable", "the model cannot be loaded now", retry_after=RETRY_SECONDS
            ) from problem
        self._unready = None
        slot.started = True
        agent = Agent(_Supervised(agent.backend, slot, self), agent.renderer)
        return self._app.on(agent) if self._app is not None and slot.entry.instructed else agent

    def _slot(self, entry: Entry) -> _Slot:
        slot = self._slots.get(entry.id)
        if slot is not None:
            return slot
        if len(self._slots) >= self._most:
            idle = [slot for slot in self._slots.values() if slot.users == 0]
            if not idle:
                raise ApiError(
                    429,
                    "overloaded",
                    f"{self._most} models are in use, and no more may be loaded; try again later",
                    retry_after=RETRY_SECONDS,
                )
            self._drop(min(idle, key=lambda slot: slot.used))
        if not self._is_local():
            spec = ModelSpec(entry.model, context=self._model.context)
            slot = self._slots[entry.id] = _Slot(entry, _RemoteModel(spec, self._backend, self._registry))
            return slot
        model = local_model_from_config(
            self._model, self._backend, self._registry, entry.model, entry.adapter
        )
        slot = self._slots[entry.id] = _Slot(entry, model)
        return slot

    def _break(self, slot: _Slot, problem: BaseException) -> None:
        """Let go of a model that crashed or hangs; the next request loads it anew."""
        if not slot.broken:
            slot.broken = True
            logger.error("the model %s failed and is loaded anew", slot.entry.id, exc_info=problem)
            self._drop(slot)

    def _drop(self, slot: _Slot) -> None:
        if self._slots.get(slot.entry.id) is slot:
            del self._slots[slot.entry.id]
        task = asyncio.create_task(_close(slot))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def supervised(self, slot: _Slot, answer: Awaitable[T]) -> T:
        """The model's answer; if it crashes or says nothing to anybody for too long, it is given up."""
        limit = Deadline(self._seconds, more=lambda: slot.heard + self._seconds - time.monotonic())
        try:
            with limit:
                given = await answer
            slot.heard = time.monotonic()
            return given
        except TimeoutError as problem:
            if limit.expired():
                self._break(slot, problem)
                raise _unavailable("the model did not answer in time") from None
            raise _unavailable("the model failed") from None  # a server behind the backend took too long
        except GrpoError:
            raise
        except Exception as problem:
            self._break(slot, problem)
            raise _unavailable("the model failed") from None

    def _is_local(self) -> bool:
        """Whether adapters can be loaded: not where the model is somewhere behind HTTP."""
        if self._backend.name == AUTO:
            return True
        return Capability.LOCAL_WEIGHTS in self._registry.get("backend", self._backend.name).capabilities


def warm_pauses() -> Iterator[float]:
    """Seconds between attempts to load the model, without end: growing to a minute.

    A part of each is drawn, so that replicas which fail together do not try again together.
    """
    longest = RETRY_SECONDS
    while True:
        yield _JITTER.uniform(longest / 2, longest)
        longest = min(LONGEST_PAUSE, 2 * longest)


class _RemoteModel:
    """A model that is not in this process: its backend waits for others, in the server's own event loop.

    A ``LocalModel`` has a loop of its own, so that its computing holds up nobody; that costs a change
    of threads a call.
    """

    def __init__(self, spec: ModelSpec, use: PluginUse, registry: Registry) -> None:
        self._spec = spec
        self._use = use
        self._registry = registry
        self._starting = asyncio.Lock()
        self._backend: Backend | None = None

    @property
    def url(self) -> str | None:
        """Where the model is, if the backend says so."""
        url = getattr(self._backend, "base_url", None)
        return url if isinstance(url, str) else None

    async def agent(self) -> Agent:
        if self._backend is None:
            async with self._starting:
                if self._backend is None:
                    chosen = resolve_use("backend", self._use, self._registry)
                    made: Backend = chosen.offer.make(self._spec, **chosen.arguments())
                    await made.start()
                    self._backend = made
        return Agent(self._backend)

    async def close(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await close_backends(backend)


@dataclass(frozen=True, slots=True)
class Lease:
    """A started model in use."""

    entry: Entry
    agent: Agent
    """With no strategy and no tools; ``dataclasses.replace`` them."""


class _Supervised(BackendWrapper):
    """``inner``, watched by the pool, its tokens counted."""

    def __init__(self, inner: Backend, slot: _Slot, pool: ModelPool) -> None:
        super().__init__(inner)
        self._slot = slot
        self._pool = pool

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        # Token by token, so that a long answer is not taken for a model that hangs.
        async with aclosing(self.stream_ids(prompt, sampling)) as items:
            return await whole_reply(items, TokenReply, lambda _: None)

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[list[int] | TokenReply]:
        async with aclosing(self._iterate(lambda: self.inner.stream_ids(prompt, sampling))) as items:
            async for item in items:
                if isinstance(item, TokenReply):
                    self._pool.usage.tokens(len(prompt), len(item.ids))
                yield item

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        reply = await super().chat(messages, sampling, tools)
        self._pool.usage.tokens(reply.prompt_tokens, reply.completion_tokens)
        return reply

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncGenerator[str | ChatReply]:
        async with aclosing(self._iterate(lambda: self.inner.stream(messages, sampling, tools))) as items:
            async for item in items:
                if isinstance(item, ChatReply):
                    self._pool.usage.tokens(item.prompt_tokens, item.completion_tokens)
                yield item

    async def _call(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._pool.supervised(self._slot, ask())

    async def _iterate(self, ask: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T]:
        items: Any = ask()
        async with aclosing(items):
            while (item := await self._pool.supervised(self._slot, _next(items))) is not None:
                yield item[0]


async def _next(items: Any) -> tuple[Any] | None:
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "model_unavailable", f"{message}; it is being restarted", retry_after=RETRY_SECONDS)


async def _close(slot: _Slot) -> None:
    try:
        await asyncio.wait_for(slot.model.close(), CLOSE_SECONDS)
    except TimeoutError:
        logger.error("the model %s did not close within %g seconds", slot.entry.id, CLOSE_SECONDS)
    except Exception:
        logger.exception("the model %s did not close cleanly", slot.entry.id)


def make_part(services: Services) -> ModelPool:
    return ModelPool(services)
