"""How a failure looks to the caller: OpenAI's shape below /v1, ours elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel
from starlette.responses import Response

from grpo_host.agents.agent import TurnLimitError, TurnTimeoutError
from grpo_host.chat.store import ConflictError, ConversationNotFoundError
from grpo_host.openai_protocol.errors import ApiError, openai_body, response
from grpo_host.storage.database import StorageError
from grpo_host.utils.redaction import redact
from grpo_sdk.errors import CapabilityError, ContextOverflowError, GrpoError, ProviderError

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException

logger = logging.getLogger("grpo_host.serving")

STATUS_OF: tuple[tuple[type[GrpoError], int, str], ...] = (
    (ConversationNotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (ContextOverflowError, 400, "context_length_exceeded"),
    (CapabilityError, 400, "unsupported"),
)
"""What the caller can do something about; other expected failures are 503."""


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
    """Turn an agent's errors into errors of the API."""
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


def render(error: ApiError, path: str, request_id: str) -> Response:
    """The response that says ``error``."""
    if path.startswith("/v1/"):
        return response(error, openai_body(error))
    told = {"code": error.code, "message": redact(error.message), "param": error.param}
    return response(error, {"error": told, "request_id": request_id})
