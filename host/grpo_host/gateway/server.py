"""A server on loopback that speaks OpenAI's protocol and answers for the episode whose key it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from grpo_host.agents.agent import TurnLimitError, TurnTimeoutError
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.streaming import astreamed
from grpo_host.backends.event_loop import LoopThread
from grpo_host.openai_protocol.chunks import DONE, CompletionWriter, begun, last_delta, sent_event
from grpo_host.openai_protocol.completions import (
    ChatCompletion,
    ChatCompletionRequest,
    Choice,
    MessageOut,
    Model,
    ModelList,
    Usage,
)
from grpo_host.openai_protocol.errors import ApiError, invalid, openai_body, response
from grpo_sdk.errors import CapabilityError, ConfigError, ContextOverflowError, GrpoError

if TYPE_CHECKING:
    from starlette.requests import Request

logger = logging.getLogger(__name__)

Answer = Callable[[ChatCompletionRequest, OnText | None], Awaitable[Reply]]
"""Gives an episode's answer to a request; the text is told as it comes, from any thread."""

MOST_BYTES = 32 * 2**20
"""Of a request."""
END_SECONDS = 5.0


@dataclass(eq=False)
class _Episode:
    """Who holds a key."""

    answer: Answer
    context: Context
    running: set[asyncio.Task[Any]] = field(default_factory=set)


class Gateway:
    """Answers ``/v1/chat/completions`` for whoever sends the key of an episode that is being played.

    It listens on 127.0.0.1, at a port that the system chooses, from the first key on, and takes no rewards:
    an app cannot grade itself. ``close`` ends it.
    """

    def __init__(self) -> None:
        self._episodes: dict[str, _Episode] = {}
        self._thread: LoopThread | None = None
        self._server: Any = None
        self._ended: Any = None
        self._url = ""

    @property
    def url(self) -> str:
        """What OpenAI's clients call the base URL."""
        self._start()
        return self._url

    @contextlib.contextmanager
    def key(self, answer: Answer) -> Iterator[str]:
        """A key for which ``answer`` speaks, in the context variables of now, while the block runs."""
        key = f"grpo-episode-{secrets.token_urlsafe(24)}"
        episode = self._episodes[key] = _Episode(answer, copy_context())
        try:
            yield key
        finally:
            del self._episodes[key]
            if self._thread is not None:
                self._thread.loop.call_soon_threadsafe(_cancel, episode)

    def close(self) -> None:
        """Stop listening. It can be used again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(Exception):
            self._ended.result(END_SECONDS)
        thread.close()

    def _start(self) -> None:
        if self._thread is not None:
            return
        import uvicorn

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # signals are the run's

        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes, exception_handlers={ApiError: _refusal}),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config)
        self._thread = LoopThread("grpo-gateway")
        serving = self._server.serve(sockets=[listener])
        self._ended = asyncio.run_coroutine_threadsafe(serving, self._thread.loop)

    async def _models(self, request: Request) -> Response:
        self._episode(request)
        return _json(ModelList(data=[Model(id="policy", created=int(time.time()))]))

    async def _complete(self, request: Request) -> Response:
        episode = self._episode(request)
        asked = await _read(request)
        if asked.stream:
            events = await begun(_streamed(episode, asked))
            return StreamingResponse(events, media_type="text/event-stream")
        answer = _begin(episode, asked, None)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            reply = await _reply(answer)
        finally:
            gone.cancel()
            answer.cancel()
        choice = Choice(index=0, message=_message(reply), finish_reason=reply.finish_reason.value)
        return _json(CompletionWriter(asked.model).whole([choice], _usage(reply)))

    def _episode(self, request: Request) -> _Episode:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        episode = self._episodes.get(key) if scheme.lower() == "bearer" else None
        if episode is None:
            raise ApiError(
                401,
                "no_episode",
                "this is the key of no episode that is being played. Use the OPENAI_API_KEY that the app was "
                "started with, before the app answers",
            )
        return episode


async def _read(request: Request) -> ChatCompletionRequest:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise ApiError(413, "too_large", f"a request may have {MOST_BYTES >> 20} MiB")
    try:
        asked = ChatCompletionRequest.model_validate_json(bytes(body))
    except ValidationError as problem:
        raise invalid(problem, 400, ChatCompletionRequest, bytes(body)) from None
    for name, wanted in (("n", (asked.n or 1) > 1), ("logprobs", asked.logprobs)):
        if wanted:
            raise ApiError(400, "unsupported", f"{name}: an episode's model gives one answer a call")
    return asked


def _begin(episode: _Episode, asked: ChatCompletionRequest, on_text: OnText | None) -> asyncio.Task[Reply]:
    """The answer, as a task that sees the context variables of the episode and ends with its key."""

    async def answer() -> Reply:
        return await episode.answer(asked, on_text)

    task = asyncio.get_running_loop().create_task(answer(), context=episode.context.copy())
    episode.running.add(task)
    task.add_done_callback(episode.running.discard)
    return task


async def _reply(answer: asyncio.Task[Reply]) -> Reply:
    if not answer.done():
        raise ApiError(499, "gone", "the client went away")
    if answer.cancelled():
        raise ApiError(409, "episode_over", "the episode of this key is over")
    try:
        return answer.result()
    except (CapabilityError, ConfigError) as problem:
        raise ApiError(400, "unsupported", str(problem)) from problem
    except ContextOverflowError as problem:
        raise ApiError(400, "context_length_exceeded", str(problem)) from problem
    except (TurnLimitError, TurnTimeoutError) as problem:
        raise ApiError(409, "episode_over", str(problem)) from problem
    except GrpoError as problem:
        raise ApiError(500, "model_error", str(problem)) from problem
    except Exception as problem:
        logger.exception("an app's model call failed")
        raise ApiError(500, "model_error", f"{type(problem).__name__}: {problem}") from problem


async def _streamed(episode: _Episode, asked: ChatCompletionRequest) -> AsyncIterator[bytes]:
    writer = CompletionWriter(asked.model)

    async def ask(on_text: OnText) -> Reply:
        answer = _begin(episode, asked, on_text)
        try:
            await asyncio.wait({answer})
            return await _reply(answer)
        finally:
            answer.cancel()

    try:
        async with contextlib.aclosing(astreamed(ask)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield writer.piece(0, {"content": piece})
                    continue
                yield writer.piece(0, last_delta(_message(piece)), finish_reason=piece.finish_reason.value)
                if asked.stream_options and asked.stream_options.include_usage:
                    yield writer.used(_usage(piece))
    except ApiError as problem:
        if not writer.opened:
            raise
        yield sent_event(orjson.dumps(openai_body(problem)))
    yield DONE


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _cancel(episode: _Episode) -> None:
    for task in episode.running:
        task.cancel()


def _message(reply: Reply) -> MessageOut:
    return MessageOut.of(reply.message["content"], reply.message.get("tool_calls", ()))


def _usage(reply: Reply) -> Usage:
    return Usage.of(reply.prompt_tokens, reply.completion_tokens)


def _json(model: ChatCompletion | ModelList) -> Response:
    return Response(model.model_dump_json(exclude_none=True), media_type="application/json")


async def _refusal(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    # What a model refuses once, it refuses again: clients must not try three times.
    problem.headers["x-should-retry"] = "false"
    return response(problem, openai_body(problem))
