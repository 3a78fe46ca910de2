"""A request that cannot be answered as it was asked, and what its caller is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from pydantic_core import from_json
from starlette.responses import Response

from grpo_host.utils.redaction import redact
from grpo_host.utils.validation import Location, explain, say_location
from grpo_sdk.errors import GrpoError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

MOST_COMPLAINTS = 8

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(GrpoError):
    """A request cannot be answered as it was asked; ``message`` is for the caller."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """For programs: ``not_found``, ``rate_limited``, …"""
        self.message = message
        self.retry_after = retry_after
        """Seconds."""
        self.param = param
        """The field of the request that is wrong."""
        self.headers = dict(headers or {})


def openai_body(error: ApiError) -> dict[str, Any]:
    """``error`` as OpenAI's clients read it."""
    kind = OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message = redact(error.message)
    return {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}


def response(error: ApiError, body: Mapping[str, Any]) -> Response:
    """``body`` with the status and headers of ``error``."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    content = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS, default=str)
    return Response(content, error.status, headers, "application/json")


def invalid(
    problem: ValidationError, status: int, model: type[BaseModel], body: bytes | None = None
) -> ApiError:
    """What is wrong with a body or query of ``model``, field by field, without repeating what was sent."""
    errors = problem.errors(include_url=False, include_input=False)[:MOST_COMPLAINTS]
    if errors[0]["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is no JSON: {errors[0]['msg']}")
    sent = None if body is None else from_json(body)
    places = [error["loc"] if body is None else _sent_place(error, sent) for error in errors]
    texts: dict[str, list[str]] = {}
    for place, error in zip(places, errors, strict=True):
        if any(other[: len(place)] == place != other for other in places):
            continue  # of a union's members, the one that fits further is what was meant
        if error["type"] == "extra_forbidden":
            near = did_you_mean(str(place[0]), list(model.model_fields)) if len(place) == 1 else ""
            text = f"there is no such field{near and f'.{near}'}"
        else:
            text = explain(error, (), what="field")
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
