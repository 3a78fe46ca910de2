"""Write and read what ``vllm serve`` speaks at ``/v1/completions``: token ids in, ids and log-probs out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from grpo_backends.errors import ProviderError, TooLongError
from grpo_sdk import FinishReason, Sampling, TokenReply
from grpo_sdk.errors import CapabilityError, GrpoError

PATH = "/v1/completions"
FAILED_ALONE = "Internal server error"
"""What vLLM says with status 500 if this request failed and no other: its grammar does not compile."""
_NO_REPLY = (ValueError, KeyError, IndexError, TypeError, AttributeError)


def request_body(
    model: str, prompt: Sequence[int], sampling: Sampling, *, max_tokens: int, stream: bool = False
) -> bytes:
    """The JSON of a request for a continuation of ``prompt``; ``model`` may name an adapter."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        # Said although they do nothing: a server takes what is not said from the model's own settings.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "logprobs": 0,
        "return_token_ids": True,
        "stream": stream,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.grammar is not None:
        body["structured_outputs"] = {"structural_tag": sampling.grammar}
    return json.dumps(body).encode()


def reply(body: bytes, where: str, version: int) -> TokenReply:
    """What ``version`` of the policy sampled, in the JSON of a response. Raises ``ProviderError``."""
    try:
        choice = _json(body)["choices"][0]
        return _reply(*_sampled(choice), choice["finish_reason"], where, version)
    except _NO_REPLY as problem:
        raise ProviderError(
            f"{where}: the answer is no completion with token ids ({type(problem).__name__}: {problem}): "
            f"{body[:200]!r}. The server must be vLLM 0.22 or later"
        ) from problem


class StreamedTokens:
    """Puts a reply together from server-sent events."""

    def __init__(self, where: str, version: int, sampling: Sampling) -> None:
        self._where = where
        self._sampling = sampling
        self._version = version
        self._rest = b""
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish: str | None = None

    def feed(self, data: bytes) -> Iterator[list[int]]:
        """The ids that ``data`` adds. Raises ``ProviderError`` if the server reports an error."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.strip()
            if field != b"data" or not value or value == b"[DONE]":
                continue
            try:
                event = _json(value)
                if "error" in event:
                    raise refusal(500, value, self._where, self._sampling)
                choice = event["choices"][0]
                ids, logprobs = _sampled(choice)
                self._finish = choice.get("finish_reason") or self._finish
            except _NO_REPLY as problem:
                raise ProviderError(
                    f"{self._where}: an event of the stream has no token ids: {value[:200]!r}"
                ) from problem
            self._ids += ids
            self._logprobs += logprobs
            if ids:
                yield ids

    def reply(self) -> TokenReply:
        """The whole reply. Raises ``ProviderError`` if the stream ended before it did."""
        if self._finish is None:
            raise ProviderError(f"{self._where}: the stream ended in the middle of the reply")
        return _reply(self._ids, self._logprobs, self._finish, self._where, self._version)


def _sampled(choice: dict[str, Any]) -> tuple[list[int], list[float]]:
    ids = choice["token_ids"] or []
    logprobs = choice["logprobs"]["token_logprobs"] if ids else []
    if len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} ids and {len(logprobs)} log-probs")
    return ids, logprobs


def _reply(ids: list[int], logprobs: list[float], finish: str, where: str, version: int) -> TokenReply:
    if finish not in ("stop", "length"):
        raise ProviderError(f"{where}: the request ended with {finish}. Look at the server's log")
    return TokenReply(ids, logprobs, FinishReason(finish), policy_version=version)


def said(body: bytes) -> str:
    """The message of a refusal."""
    try:
        answer = _json(body)
        error = answer.get("error", answer)
        return str(error.get("message", error))[:400]
    except _NO_REPLY:
        return body[:200].decode("utf-8", "replace").strip()


def refusal(status: int, body: bytes, where: str, sampling: Sampling) -> GrpoError:
    """What a status means, if no other replica would answer otherwise."""
    words = said(body)
    text = f"{where}: status {status}: {words or 'no reason given'}"
    if "context length" in words:
        return TooLongError(text, status=status)
    if sampling.grammar is not None:
        return CapabilityError(f"the grammar cannot be enforced: {text}")
    return ProviderError(f"{text}. Check api_key" if status in (401, 403) else text, status=status)


def _json(text: bytes) -> Any:
    import orjson

    return orjson.loads(text)


def models(body: bytes, where: str) -> dict[str, int | None]:
    """The names of a server's models, adapters not among them, with the length of their context."""
    try:
        listed = [card for card in _json(body)["data"] if not card.get("parent")]
        return {card["id"]: card.get("max_model_len") for card in listed}
    except _NO_REPLY as problem:
        raise ProviderError(f"{where}: /v1/models is no list of models: {body[:200]!r}") from problem


def probe_body(model: str) -> bytes:
    """A request for the one id that it allows, whose log-prob is 0 if the server masks before it counts."""
    sampling = Sampling(max_tokens=1, temperature=1.0, seed=0)
    body = json.loads(request_body(model, [1, 1], sampling, max_tokens=1))
    return json.dumps({**body, "allowed_token_ids": [1], "ignore_eos": True}).encode()
