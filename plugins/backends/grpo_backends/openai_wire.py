"""OpenAI's chat protocol as bytes: requests, replies, streamed replies and refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grpo_backends.errors import ProviderError
from grpo_sdk import (
    ChatReply,
    ContextOverflowError,
    FinishReason,
    GrpoError,
    Message,
    Sampling,
    ToolCall,
    ToolSchema,
    assistant,
)


def request_body(
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    tools: Sequence[ToolSchema],
    extra: Mapping[str, Any],
) -> bytes:
    """The JSON of a request. Settings that not every server knows are sent only where they are set."""
    import orjson

    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
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
    if extra:
        body.update(extra)
    return orjson.dumps(body, default=list)


def reply(body: bytes, where: str) -> ChatReply:
    """The reply in the JSON of a response from ``where``. Raises ``ProviderError``."""
    import orjson

    try:
        answer = orjson.loads(body)
        choice = answer["choices"][0]
        message = choice["message"]
        calls = [_tool_call(call) for call in message.get("tool_calls") or ()]
        usage = answer.get("usage") or {}
        return ChatReply(
            assistant(message.get("content") or "", calls),
            _finish_reason(choice.get("finish_reason"), bool(calls)),
            usage.get("prompt_tokens") or 0,
            usage.get("completion_tokens") or 0,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise ProviderError(
            f"{where}: the answer is no chat completion ({type(problem).__name__}: {problem}): "
            f"{body[:200]!r}. Check that base_url ends where /chat/completions begins"
        ) from problem


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call["function"]
    return {
        "id": call.get("id") or "",
        "type": "function",
        "function": {"name": function["name"], "arguments": function.get("arguments") or ""},
    }


def _finish_reason(said: str | None, called: bool) -> FinishReason:
    if said == "length":
        return FinishReason.LENGTH
    return FinishReason.TOOL_CALLS if called else FinishReason.STOP


class StreamedReply:
    """Puts a reply together from server-sent events."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = b""
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._usage: Mapping[str, Any] = {}

    def feed(self, data: bytes) -> Iterator[str]:
        """The text that ``data`` adds. Raises ``ProviderError`` where the server reports an error."""
        import orjson

        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.strip()
            if field != b"data" or not value or value == b"[DONE]":
                continue
            try:
                event = orjson.loads(value)
            except ValueError as problem:
                raise ProviderError(
                    f"{self._where}: an event of the stream is no JSON: {value[:200]!r}"
                ) from problem
            if text := self._take(event):
                yield text

    def _take(self, event: Mapping[str, Any]) -> str:
        if "error" in event:
            raise ProviderError(f"{self._where}: {_message(event)}")
        self._usage = event.get("usage") or self._usage
        if not event.get("choices"):
            return ""
        choice = event["choices"][0]
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta") or {}
        for piece in delta.get("tool_calls") or ():
            call = self._calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["id"] = piece.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        text: str = delta.get("content") or ""
        self._text.append(text)
        return text

    def reply(self) -> ChatReply:
        """All of it. Raises ``ProviderError`` where the stream ended before the reply did."""
        if self._finish is None:
            raise ProviderError(f"{self._where}: the stream ended in the middle of the reply")
        calls = [_tool_call({"id": call["id"], "function": call}) for _, call in sorted(self._calls.items())]
        return ChatReply(
            assistant("".join(self._text), calls),
            _finish_reason(self._finish, bool(calls)),
            self._usage.get("prompt_tokens") or 0,
            self._usage.get("completion_tokens") or 0,
        )


def failure(status: int, body: bytes, where: str, model: str, retries: int) -> GrpoError:
    """What a refusal means for the user."""
    import orjson

    try:
        said = _message(orjson.loads(body))
    except ValueError:
        said = body[:200].decode("utf-8", "replace").strip()
    text = f"{where}: status {status}: {said or 'no reason given'}"
    if status in (401, 403):
        return ProviderError(f"{text}. Check api_key")
    if status == 404:
        return ProviderError(f'{text}. Check base_url and that the server has the model "{model}"')
    if status in (400, 413, 422) and "context" in said.lower():
        return ContextOverflowError(text)
    if status == 429:
        return ProviderError(
            f"{text} (rate limit, tried {retries + 1} times). Lower the concurrency, or raise retries"
        )
    if status >= 500:
        return ProviderError(f"{text} (tried {retries + 1} times). Look at the server's log")
    return ProviderError(text)


def _message(answer: Any) -> str:
    """The words of an error, in the forms that servers use."""
    if not isinstance(answer, dict):
        return str(answer)[:300]
    error = answer.get("error") or answer.get("detail") or answer.get("message") or answer
    if isinstance(error, dict):
        error = error.get("message") or error
    return str(error)[:300]
