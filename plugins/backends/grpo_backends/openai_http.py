"""The backend ``openai``: servers that speak OpenAI's chat protocol, at little client CPU."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends import openai_wire as wire
from grpo_backends.dialect import CAPABILITIES, Dialect
from grpo_backends.retries import retried
from grpo_backends.trace_context import head_lines
from grpo_sdk import (
    Backend,
    ChatReply,
    ConfigError,
    GrpoError,
    Message,
    ModelSpec,
    Sampling,
    ToolSchema,
)

if TYPE_CHECKING:
    from grpo_backends.http_connection import Response
    from grpo_backends.keepalive import KeepAliveClient

_PATH = "/chat/completions"


class OpenAIChatBackend(Backend):
    """A model behind ``base_url``, e.g. of ``vllm serve``, llama.cpp, Ollama or OpenAI.

    ``timeout`` is in seconds. ``retries`` is how often a request is tried again after status 429
    or 5xx, or a broken connection, with growing pauses or the one that the server asks for.
    ``extra_body`` is merged into every request. A server that repeats samples gets their seed. The
    context of an active trace goes along in the headers. A query in ``base_url`` goes along with every
    request, and so do the proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``, …).
    """

    capabilities = CAPABILITIES
    provider: ClassVar[str] = "openai"
    """Its name in spans."""

    def __init__(
        self,
        model: ModelSpec,
        *,
        base_url: str = "http://127.0.0.1:8000/v1",
        api_key: str | None = None,
        timeout: float = 120.0,
        max_connections: int = 512,
        retries: int = 3,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        self.base_url = base_url
        self._api_key = api_key
        self.timeout = timeout
        self.max_connections = max_connections
        self.retries = retries
        self.extra_body = extra_body or {}
        self._client: KeepAliveClient | None = None
        self._dialect = Dialect(f"{self._where} {model.name}")

    @property
    def _where(self) -> str:
        """The address for messages, without its query, which may hold a key."""
        return self.base_url.partition("?")[0]

    async def start(self) -> None:
        from grpo_backends.keepalive import KeepAliveClient

        headers = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        try:
            self._client = KeepAliveClient(
                self.base_url,
                headers=headers,
                timeout=self.timeout,
                max_connections=self.max_connections,
            )
        except ValueError as problem:
            raise ConfigError(f"backend openai: base_url: {problem}") from problem

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        """Raises ``ProviderError``, or ``ContextOverflowError`` if the conversation is too long."""
        client = self._started()

        async def call() -> ChatReply:
            while True:
                settings = {**self._dialect.settings(sampling), **self.extra_body}
                body = wire.request_body(self.model.name, messages, sampling, tools, settings)
                response = await client.post(_PATH, body, head_lines())
                if response.status == 200:
                    return wire.reply(response.body, self._where)
                if not self._learns(response, settings):
                    raise self._failure(response)

        return await retried(call, self.retries)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        """As ``chat``; a stream that breaks raises, since what was yielded cannot be repeated."""
        client = self._started()
        extra = {"stream": True, "stream_options": {"include_usage": True}, **self.extra_body}

        async def call() -> tuple[AsyncExitStack, AsyncIterator[bytes]]:
            while True:
                settings = {**self._dialect.settings(sampling), **extra}
                body = wire.request_body(self.model.name, messages, sampling, tools, settings)
                async with AsyncExitStack() as stack:
                    streamed = client.stream(_PATH, body, head_lines())
                    head, chunks = await stack.enter_async_context(streamed)
                    if head.status == 200:
                        return stack.pop_all(), chunks
                    response = type(head)(head.status, head.headers, b"".join([c async for c in chunks]))
                if not self._learns(response, settings):
                    raise self._failure(response)

        begun, chunks = await retried(call, self.retries)
        async with begun:
            gathered = wire.StreamedReply(self._where)
            async for chunk in chunks:
                for text in gathered.feed(chunk):
                    yield text
            for text in gathered.rest():
                yield text
            yield gathered.reply()

    def _started(self) -> KeepAliveClient:
        if self._client is None:
            raise RuntimeError("the backend openai is not running; await start() first")
        return self._client

    def _learns(self, response: Response, sent: Mapping[str, Any]) -> bool:
        """Whether the server has only refused a setting that can be left out or renamed."""
        if response.status not in (400, 422):
            return False
        asked = {name: value for name, value in sent.items() if name not in self.extra_body}
        return self._dialect.learn(asked, wire.said(response.body))

    def _failure(self, response: Response) -> GrpoError:
        return wire.failure(
            response.status,
            response.body,
            self._where,
            self.model.name,
            retries=self.retries,
            retry_after=response.header("retry-after"),
        )
