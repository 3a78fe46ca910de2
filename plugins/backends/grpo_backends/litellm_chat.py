"""The backend ``litellm``: any hosted or local model that LiteLLM can call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from grpo_backends.dialect import CAPABILITIES, Dialect
from grpo_backends.errors import ProviderError, TooLongError
from grpo_backends.replies import Pieces, read_reply
from grpo_backends.retries import passing, retried
from grpo_backends.structured import constraints
from grpo_sdk import (
    Backend,
    ChatReply,
    GrpoError,
    Message,
    MissingExtraError,
    ModelSpec,
    Sampling,
    ToolSchema,
)
from grpo_sdk.blocking import call_blocking
from grpo_sdk.messages import on_the_wire

UNREADABLE = "Invalid response object"
"""What LiteLLM says, with a traceback and as an error of the server, where its own reader fails."""

_running = 0
"""Number of started backends in this process: they share LiteLLM's connections, which the last one closes."""


class LiteLLMBackend(Backend):
    """A provider's model, named as LiteLLM names it (``openai/gpt-5-mini``, ``ollama/qwen3``, …).

    ``api_base`` and ``api_key`` None: those of the provider, from its environment variables.
    ``timeout`` is in seconds. ``retries`` is how often a call is tried again after a rate limit, a
    server's error or a broken connection. ``concurrency`` bounds the calls under way.
    """

    capabilities = CAPABILITIES
    requires: ClassVar[tuple[str, ...]] = ("litellm",)
    extra: ClassVar[str] = "litellm"

    def __init__(
        self,
        model: ModelSpec,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        concurrency: int = 64,
    ) -> None:
        super().__init__(model)
        self.api_base = api_base
        self._api_key = api_key
        self.timeout = timeout
        self.retries = retries
        self._gate = asyncio.Semaphore(concurrency)
        self._dialect = Dialect(f"litellm {model.name}")
        self._litellm: Any = None
        self._base_error: type[Exception] = Exception

    async def start(self) -> None:
        global _running
        self._litellm = await call_blocking(_load)
        from openai import OpenAIError  # the base of LiteLLM's errors, and its dependency

        self._base_error = OpenAIError
        _running += 1

    async def close(self) -> None:
        global _running
        litellm, self._litellm = self._litellm, None
        if litellm is None:
            return
        _running -= 1
        if not _running:
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()  # it would hand out closed clients

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        """Raises ``ProviderError``, or ``ContextOverflowError`` if the conversation is too long."""
        async with self._gate:
            return self._reply(await self._call(messages, sampling, tools, stream=False))

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        """As ``chat``; a stream that breaks raises, since what was yielded cannot be repeated."""
        litellm = self._started()
        chunks, pieces = [], Pieces()
        async with self._gate:
            answer = await self._call(messages, sampling, tools, stream=True)
            try:
                async for chunk in answer:
                    chunks.append(chunk)
                    if chunk.choices and (text := pieces.add(chunk.choices[0].model_dump())):
                        yield text
            except self._base_error as problem:
                raise self._explained(problem) from problem
        # LiteLLM's own builder counts tokens, but takes calls that have one index for one call.
        built = litellm.stream_chunk_builder(chunks, messages=list(messages))
        yield replace(pieces.reply(_usage(built)), cost=self._cost(built))

    def _started(self) -> Any:
        if self._litellm is None:
            raise RuntimeError("the backend litellm is not running; await start() first")
        return self._litellm

    async def _call(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[ToolSchema],
        *,
        stream: bool,
    ) -> Any:
        litellm = self._started()
        wanted = {
            "top_k": sampling.top_k or None,
            "stop": list(sampling.stop) or None,
            "stop_token_ids": list(sampling.stop_token_ids) or None,
            "seed": sampling.seed,
            "tools": list(tools) or None,
            **constraints(sampling, tools),
            "stream_options": {"include_usage": True} if stream else None,
            "api_base": self.api_base,
            "api_key": self._api_key,
        }

        async def call() -> Any:
            while True:
                settings = self._dialect.settings(sampling)
                try:
                    return await litellm.acompletion(
                        model=self.model.name,
                        messages=on_the_wire(messages),
                        **settings,
                        stream=stream,
                        timeout=self.timeout,
                        max_retries=0,  # counted here, alike for every provider
                        **{name: value for name, value in wanted.items() if value is not None},
                    )
                except self._base_error as problem:
                    if not (_is_refusal(litellm, problem) and self._dialect.learn(settings, str(problem))):
                        raise self._explained(problem) from problem

        return await retried(call, self.retries)

    def _reply(self, answer: Any) -> ChatReply:
        try:
            reply = read_reply(answer.choices[0].model_dump(), _usage(answer))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
            raise ProviderError(
                f"litellm {self.model.name}: the answer is no chat completion "
                f"({type(problem).__name__}: {problem}). Check the model's name and api_base"
            ) from problem
        return replace(reply, cost=self._cost(answer))

    def _cost(self, answer: Any) -> float | None:
        """US dollars, or None for a model that LiteLLM has no price of."""
        try:
            cost = self._litellm.completion_cost(answer, model=self.model.name)
        except Exception:
            return None
        return float(cost)

    def _explained(self, problem: Exception) -> GrpoError:
        """Turn LiteLLM's ``problem`` into an error for the user."""
        errors = self._started().exceptions
        where = f"litellm {self.model.name}" + (f" at {self.api_base}" if self.api_base else "")
        said = " ".join(str(problem).split())[:300]
        if isinstance(problem, errors.ContextWindowExceededError):
            return TooLongError(f"{where}: {said}", status=400)
        if UNREADABLE in said:
            return ProviderError(
                f"{where}: LiteLLM cannot read the answer, whose fields are of other kinds than OpenAI's. "
                "The backend openai can, with the server's address as base_url"
            )
        advice = "Look at the provider's status"
        for kind, words in (
            (errors.AuthenticationError, "Check api_key, or the provider's environment variable"),
            (errors.PermissionDeniedError, "Check what the API key may use"),
            (errors.NotFoundError, "Check the model's name and api_base"),
            (errors.RateLimitError, f"Tried {self.retries + 1} times: lower the concurrency"),
            (errors.Timeout, f"No answer within {self.timeout:g} s: raise timeout"),
            (errors.BadRequestError, "Check the model's name and the settings sent to it"),
            (errors.APIConnectionError, "Check api_base and that a server listens there"),
            (errors.InternalServerError, "Check api_base and that a server listens there"),
        ):
            if isinstance(problem, kind):
                advice = words
                break
        text = f"{where}: {said}. {advice}"
        status = getattr(problem, "status_code", None)
        status = status if isinstance(status, int) else None
        if not _may_pass(errors, problem):
            return ProviderError(text, status=status)
        # LiteLLM makes up the response of some errors; these are the headers that came.
        headers = getattr(problem, "litellm_response_headers", None) or {}
        return passing(text, where, status, headers.get("retry-after"))


def _load() -> Any:
    # Otherwise importing it downloads a price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as problem:
        raise MissingExtraError("the backend litellm", "litellm", "litellm") from problem
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _may_pass(errors: Any, problem: Exception) -> bool:
    """Whether trying again may help."""
    return isinstance(
        problem,
        (
            errors.RateLimitError,
            errors.APIConnectionError,
            errors.InternalServerError,
            errors.ServiceUnavailableError,
            errors.BadGatewayError,
            errors.Timeout,
        ),
    )


def _is_refusal(litellm: Any, problem: Exception) -> bool:
    """Whether the error is about the request."""
    errors = litellm.exceptions
    return isinstance(problem, (errors.BadRequestError, errors.UnprocessableEntityError))


def _usage(answer: Any) -> dict[str, Any]:
    usage = getattr(answer, "usage", None)
    return {name: getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens")}
