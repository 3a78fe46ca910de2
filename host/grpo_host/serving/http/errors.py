"""How a failure looks to the caller: OpenAI's shape below /v1, ours elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from grpo_host.agents.agent import TurnLimitError, TurnTimeoutError
from grpo_host.chat.store import ConflictError, ConversationNotFoundError
from grpo_host.serving.http.api_error import ApiError
from grpo_host.storage.database import StorageError
from grpo_host.utils.redaction import redact
from grpo_host.utils.validation import Location, explain, say_location
from grpo_sdk.errors import CapabilityError, ContextOverflowError, GrpoError, ProviderError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from starlette.exceptions import HTTPException

logger = logging.getLogger("grpo_host.serving")

MOST_COMPLAINTS = 8

STATUS_OF: tuple[tuple[type[GrpoError], int, str], ...] = (
    (ConversationNotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (ContextOverflowError, 400, "context_length_exceeded"),
    (CapabilityError, 400, "unsupported"),
)
"""What the caller can do something about; other expected failures are 503."""

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ErrorBody(BaseModel):
    code: str
    """For programs."""
    message: str
    """For people."""
    param: str | None = None
    """The field of the request that is wrong."""


class ErrorResponse(BaseModel):
    """A failure."""

    error: ErrorBody
    request_id: str


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """A failure below /v1."""

    error: OpenAIErrorBody


def answered(problem: GrpoError, what: str) -> ApiError:
    """``problem`` as an answer; what of it is not for the caller is logged, as a failure of ``what``."""
    error = api_error(problem)
    told = error.status < 500 and not isinstance(problem, ProviderError)
    if not told and error is not problem:
        logger.warning("%s: %s", what, redact(str(problem)))
    return error


def api_error(problem: GrpoError) -> ApiError:
    """``problem`` as an answer."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, StorageError):
        return ApiError(503, "unavailable", "the server cannot reach its database", retry_after=2.0)
    if isinstance(problem, ProviderError) and (refused := _refused(problem)):
        return refused
    for kind, status, code in STATUS_OF:
        if isinstance(problem, kind):
            return ApiError(status, code, str(problem))
    # Its words may tell of addresses and paths behind the server: they are for the log.
    return ApiError(503, "unavailable", "the model cannot answer now; try again later", retry_after=5.0)


def _refused(problem: ProviderError) -> ApiError | None:
    """What a model's server will refuse again; None for what may pass. Its own words are for the log."""
    if isinstance(problem, ContextOverflowError):
        message = "the conversation is too long for the model's context"
        return ApiError(400, "context_length_exceeded", message)
    status = problem.status or 503
    if status >= 500 or status in (408, 409, 425, 429):
        return None
    if status in (400, 413, 422):
        message = (
            "the model's server does not take this request; ask whoever runs this server, whose log says why"
        )
        return ApiError(400, "refused_upstream", message)
    message = "the model's server refuses this server; whoever runs it finds the reason in its log"
    return ApiError(502, "refused_upstream", message, headers={"x-should-retry": "false"})


@contextmanager
def agent_errors() -> Iterator[None]:
    """What an agent's answer fails of, as an answer of the server."""
    try:
        yield
    except TurnLimitError as problem:
        raise ApiError(
            503, "turn_limit", "the agent used all its turns on tools and gave no answer"
        ) from problem
    except TurnTimeoutError as problem:
        raise ApiError(503, "timeout", str(problem), retry_after=5.0) from problem


def not_routed(problem: HTTPException) -> ApiError:
    """Starlette's own refusals."""
    status = problem.status_code
    code, message = {
        404: ("not_found", "there is nothing at this path"),
        405: ("method_not_allowed", "this path does not take this method"),
    }.get(status, ("bad_request", str(problem.detail)))
    return ApiError(status, code, message, headers=problem.headers)


def invalid(problem: ValidationError, status: int, body: bytes | None = None) -> ApiError:
    """What is wrong with a body or query, field by field, without repeating what was sent."""
    errors = problem.errors(include_url=False, include_input=False)[:MOST_COMPLAINTS]
    if errors[0]["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is no JSON: {errors[0]['msg']}")
    sent = None if body is None else from_json(body)
    places = [error["loc"] if body is None else _sent_place(error, sent) for error in errors]
    texts: dict[str, list[str]] = {}
    for place, error in zip(places, errors, strict=True):
        if any(other[: len(place)] == place != other for other in places):
            continue  # of a union's members, the one that fits further is what was meant
        unknown = error["type"] == "extra_forbidden"
        text = "there is no such field" if unknown else explain(error, (), what="field")
        texts.setdefault(say_location(place)[:200], []).append(text)
    said = {place: ", or ".join(dict.fromkeys(each)) for place, each in texts.items()}
    message = "; ".join(f"{place}: {text}" if place else text for place, text in said.items())
    return ApiError(status, "invalid_request", message, param=next(iter(said), None))


def _sent_place(error: ErrorDetails, sent: Any) -> Location:
    """Where ``error`` is in what was ``sent``; pydantic also names the members of unions."""
    steps: list[str | int] = []
    for step in error["loc"]:
        held = sent.get(step, _NOTHING) if isinstance(sent, dict) else _NOTHING
        if isinstance(sent, list) and isinstance(step, int) and step < len(sent):
            held = sent[step]
        if held is not _NOTHING:
            steps.append(step)
            sent = held
    if error["type"] == "missing":
        steps.append(error["loc"][-1])
    elif error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        named = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        steps.append("type" if named.endswith("()") else named)  # a function that looks at the type
    return tuple(steps)


_NOTHING = object()


def render(error: ApiError, path: str, request_id: str) -> Response:
    """The response that says ``error``."""
    message = redact(error.message)
    if path.startswith("/v1/"):
        kind = OPENAI_TYPES.get(
            error.status, "invalid_request_error" if error.status < 500 else "server_error"
        )
        content: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": error.param, "code": error.code}
        }
    else:
        content = {
            "error": {"code": error.code, "message": message, "param": error.param},
            "request_id": request_id,
        }
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS, default=str)
    return Response(body, error.status, headers, "application/json")
