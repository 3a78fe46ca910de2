"""What anyone may ask: is the server there, is it ready, what does it offer."""

from __future__ import annotations

from typing import Literal

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from grpo_host.serving.endpoint import Call, Endpoint


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests should come here now."""

    status: str
    """``ready``, or why not."""


def endpoints() -> list[Endpoint]:
    return [
        Endpoint("GET", "/health", health, None, "Is the server there?", ["health"], response=Health),
        Endpoint("GET", "/health/live", health, None, "Is the process alive?", ["health"], response=Health),
        Endpoint(
            "GET",
            "/health/ready",
            ready,
            None,
            "Should requests come here?",
            ["health"],
            response=Readiness,
            statuses={503: "Not now: starting, or shutting down"},
        ),
    ]


async def health(_: Call) -> Health:
    """Says so as long as the process runs, also while it ends."""
    return Health()


async def ready(call: Call) -> Response:
    """Asks no model and no database."""
    reason = call.services.unready()
    content = orjson.dumps({"status": reason or "ready"})
    return Response(content, 503 if reason else 200, media_type="application/json")
