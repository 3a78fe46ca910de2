"""Write and read OpenAI's chat protocol: requests, replies, streamed replies and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from grpo_backends.errors import ProviderError, TooLongError
from grpo_backends.replies import Pieces, read_reply
from grpo_backends.retries import passing
from grpo_backends.structured import constraints
from grpo_sdk import ChatReply, GrpoError, Message, Sampling, ToolSchema
from grpo_sdk.messages import on_the_wire


def request_body(
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    tools: Sequence[ToolSchema],
    settings: Mapping[str, Any],
) -> bytes:
    """The JSON of a request. Settings that not every server knows are sent only if they are set."""
    body: dict[str, Any] = {"model": model, "messages": on_the_wire(messages)}
    if sampling.top_k > 0:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = sampling.stop
    if sampling.stop_token_ids:
        body["stop_token_ids"] = sampling.stop_token_ids
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if tools:
        body["tools"] = tools
    body.update(constraints(sampling, tools))
    body.update(settings)
    try:
        return orjson.dumps(body, default=list)
    except TypeError:
        # Integers above 64 bits and halves of characters, which a tool's schema or a call may hold.
        return json.dumps(body, default=list).encode()


def reply(body: bytes, where: str) -> ChatReply:
    """The reply in the JSON of a response from ``where``. Raises ``ProviderError``."""
    try:
        answer = _json(body)
        if answer.get("error"):
            raise ProviderError(f"{where}: {_message(answer)}")
        return read_reply(answer["choices"][0], answer.get("usage"))
    except _NO_REPLY as problem:
        raise ProviderError(
            f"{where}: the answer is no chat completion ({type(problem).__name__}: {problem}): "
            f"{body[:200]!r}. Check that base_url ends where /chat/completions begins"
        ) from problem


_NO_REPLY = (ValueError, KeyError, IndexError, TypeError, AttributeError)


class StreamedReply:
    """Puts a reply together from server-sent events."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = b""
        self._pieces = Pieces()
        self._ended = False
        self._usage: Any = None

    def feed(self, data: bytes) -> Iterator[str]:
        """The text that ``data`` adds. Raises ``ProviderError`` if the server reports an error."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.strip()
            self._ended = self._ended or value == b"[DONE]"
            if field != b"data" or not value or value == b"[DONE]":
                continue
            try:
                text = self._take(_json(value))
            except _NO_REPLY as problem:
                raise ProviderError(
                    f"{self._where}: an event of the stream is no JSON of a chunk: {value[:200]!r}"
                ) from problem
            if text:
                yield text

    def _take(self, event: Mapping[str, Any]) -> str:
        if event.get("error"):
            raise ProviderError(f"{self._where}: {_message(event)}")
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices")
        return self._pieces.add(choices[0]) if choices else ""

    def rest(self) -> Iterator[str]:
        """The text of a last event without a line break."""
        return self.feed(b"\n")

    def reply(self) -> ChatReply:
        """The whole reply. Raises ``ProviderError`` if the stream ended before the reply did."""
        if self._pieces.finish_reason is None and not self._ended:
            raise ProviderError(f"{self._where}: the stream ended in the middle of the reply")
        return self._pieces.reply(self._usage)


def said(body: bytes) -> str:
    """The message of a refusal."""
    try:
        return _message(_json(body))
    except ValueError:
        return body[:200].decode("utf-8", "replace").strip()


def failure(
    status: int, body: bytes, where: str, model: str, *, retries: int, retry_after: str | None
) -> GrpoError:
    """Turn a refusal into an error for the user."""
    words = said(body)
    text = f"{where}: status {status}: {words or 'no reason given'}"
    if status in (400, 413, 422) and "context" in words.lower():
        return TooLongError(text, status=status)
    if status in (401, 403):
        text += ". Check api_key"
    elif status == 404:
        text += f'. Check base_url and that the server has the model "{model}"'
    elif status == 429:
        text += f" (rate limit, tried {retries + 1} times). Lower the concurrency, or raise retries"
        return passing(text, where, status, retry_after)
    elif status >= 500:
        text += f" (tried {retries + 1} times). Look at the server's log"
        return passing(text, where, status, retry_after)
    return ProviderError(text, status=status)


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)  # it also takes half of a surrogate pair, as of an emoji that was cut


def _message(answer: Any) -> str:
    """The message of an error, in any of the forms that servers use."""
    if not isinstance(answer, dict):
        return str(answer)[:300]
    error = answer.get("error") or answer.get("detail") or answer.get("message") or answer
    if isinstance(error, dict):
        error = error.get("message") or error
    return str(error)[:300]
