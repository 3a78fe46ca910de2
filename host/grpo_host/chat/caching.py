"""Reuse answers and tool results if that is safe."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.cache.tools import Cacheable, origin_of
from grpo_sdk.backend import Backend, ChatReply, Sampling, TokenReply
from grpo_sdk.blocking import settled
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.tool_results import tool_text
from grpo_sdk.tools import BoundTool

logger = logging.getLogger(__name__)

R = TypeVar("R", TokenReply, ChatReply)
T = TypeVar("T")


def cache_key(kind: str, *parts: Any) -> str:
    """A key of fixed length for JSON-able ``parts``."""
    text = json.dumps(parts, sort_keys=True, default=repr)
    return f"{kind}:{hashlib.blake2b(text.encode(), digest_size=20).hexdigest()}"


class CachedBackend(BackendWrapper):
    """Caches the deterministic answers of ``inner``: those at temperature 0 or with a seed.

    ``identity`` says which weights answer: it is part of every key. ``cache`` is a
    ``grpo_sdk.cache.Cache``; one whose methods are async will do too.
    """

    def __init__(self, inner: Backend, cache: Any, identity: Callable[[], str]) -> None:
        super().__init__(inner)
        self._cache = cache
        self._identity = identity

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        key = self._key("ids", sampling, list(prompt))
        return await self._reply(key, TokenReply, lambda: self.inner.generate(prompt, sampling))

    def stream_ids(self, prompt: Sequence[int], sampling: Sampling) -> AsyncIterator[list[int] | TokenReply]:
        key = self._key("ids", sampling, list(prompt))
        items = self.inner.stream_ids
        return self._stream(key, TokenReply, lambda reply: reply.ids, lambda: items(prompt, sampling))

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        key = self._key("chat", sampling, list(messages), list(tools))
        return await self._reply(key, ChatReply, lambda: self.inner.chat(messages, sampling, tools))

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        key = self._key("chat", sampling, list(messages), list(tools))
        items = self.inner.stream
        return self._stream(
            key, ChatReply, lambda reply: reply.message["content"], lambda: items(messages, sampling, tools)
        )

    async def _reply(self, key: str | None, kind: type[R], ask: Callable[[], Awaitable[R]]) -> R:
        if key and (found := await got(self._cache, key)):
            return kind(**found)
        reply = await ask()
        if key:
            await put(self._cache, key, asdict(reply))
        return reply

    async def _stream(
        self, key: str | None, kind: type[R], delta: Callable[[R], T], ask: Callable[[], AsyncIterator[T | R]]
    ) -> AsyncIterator[T | R]:
        if key and (found := await got(self._cache, key)):
            reply = kind(**found)
            yield delta(reply)
            yield reply
            return
        async for item in ask():
            if key and isinstance(item, kind):
                await put(self._cache, key, asdict(item))
            yield item

    def _key(self, kind: str, sampling: Sampling, *said: Any) -> str | None:
        if sampling.temperature > 0 and sampling.seed is None:
            return None
        return cache_key(f"grpo:{kind}", self._identity(), asdict(sampling), *said)


def cached_tool(tool: BoundTool, cache: Any, mark: Cacheable) -> BoundTool:
    """``tool`` with its results cached as ``mark`` says. What it raises is not."""
    origin = origin_of(tool.source)

    async def run(arguments: dict[str, Any]) -> Any:
        key = cache_key("grpo:tool", origin, tool.schema, arguments)
        found = await got(cache, key)
        if found is not None:
            return found["text"]
        text = tool_text(await tool.run(arguments))
        await put(cache, key, {"text": text}, ttl=mark.ttl)
        return text

    return replace(tool, run=run)


async def got(cache: Any, key: str) -> Any:
    """``cache.get``, awaited if it is async."""
    found = cache.get(key)
    return await settled(found)


async def put(cache: Any, key: str, value: Any, *, ttl: float | None = None) -> None:
    """``cache.set``, awaited if it is async. A value that cannot be cached is skipped without an error."""
    try:
        done = cache.set(key, value) if ttl is None else cache.set(key, value, ttl=ttl)
        if inspect.isawaitable(done):
            await done
    except TypeError as problem:
        logger.warning("not cached: %s", problem)
