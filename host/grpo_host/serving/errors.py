"""How a failure looks to the caller: OpenAI's shape below /v1, ours elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from grpo_host.agent import TurnLimitError, TurnTimeoutError
from grpo_host.chat.store import ConflictError, ConversationNotFoundError
from grpo_host.redaction import redact
from grpo_host.serving.endpoint import ApiError
from grpo_host.storage import StorageError
from grpo_host.validation import explain, say_location
from grpo_sdk.errors import CapabilityError, ContextOverflowError, GrpoError

if TYPE_CHECKING:
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
    if error.status >= 500 and error is not problem:
        logger.warning("%s: %s", what, redact(str(problem)))
    return error


def api_error(problem: GrpoError) -> ApiError:
    """``problem`` as an answer."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, StorageError):
        return ApiError(503, "unavailable", "the server cannot reach its database", retry_after=2.0)
    for kind, status, code in STATUS_OF:
        if isinstance(problem, kind):
            return ApiError(status, code, str(problem))
    # Its words may tell of addresses and paths behind the server: they are for the log.
    return ApiError(503, "unavailable", "the model cannot answer now; try again later", retry_after=5.0)


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


def invalid(problem: ValidationError, status: int) -> ApiError:
    """What is wrong with a body or query, field by field, without repeating what was sent."""
    texts: dict[str, str] = {}
    for error in problem.errors(include_url=False, include_input=False)[:MOST_COMPLAINTS]:
        if error["type"] == "json_invalid":
            return ApiError(400, "invalid_json", f"the body is no JSON: {error['msg']}")
        place = say_location(error["loc"])[:200]
        if error["type"] == "extra_forbidden":
            texts.setdefault(place, "there is no such field")
        else:
            texts.setdefault(place, explain(error, (), what="field"))
    message = "; ".join(f"{place}: {text}" if place else text for place, text in texts.items())
    return ApiError(status, "invalid_request", message, param=next(iter(texts), None))


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
