"""What anyone may ask: is the server there, is it ready, what does it offer."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.http.openapi import build_openapi

DOCS = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
    "/docs/swagger-ui.css": ("vendor/swagger-ui.css", "text/css"),
    "/docs/swagger-ui.js": ("vendor/swagger-ui-bundle.js", "text/javascript"),
}
"""The page and its files: path → file, type. All of them are in ``PUBLIC``."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests should come here now."""

    status: str
    """``ready``, or why not."""


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/",
            start,
            None,
            "Leads to the page that shows what there is",
            ["documentation"],
            status=307,
            content_type="text/html",
        ),
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
            statuses={503: "Not now: starting, shutting down, or without its database or model"},
        ),
        Endpoint("GET", "/openapi.json", openapi, None, "This document", ["documentation"]),
        *(
            Endpoint(
                "GET",
                path,
                docs,
                None,
                "The page that shows it",
                ["documentation"],
                content_type=kind,
                documented=path == "/docs",
            )
            for path, (_, kind) in DOCS.items()
        ),
    ]


async def start(_: Call) -> Response:
    """Relative, so that it also holds below the path of a proxy."""
    return Response(b'<a href="docs">docs</a>\n', 307, {"location": "docs"}, "text/html")


async def health(_: Call) -> Health:
    """Says so as long as the process runs, also while it ends."""
    return Health()


async def ready(call: Call) -> Response:
    """Asks no model; the database, and the server behind the backend, once in five seconds at most."""
    reason = call.services.unready() or await call.services.outside.failing()
    content = orjson.dumps({"status": reason or "ready"})
    return Response(content, 503 if reason else 200, media_type="application/json")


async def openapi(call: Call) -> Response:
    """OpenAPI 3.1, built from the models that the server validates with."""
    state = call.request.app.state
    if not hasattr(state, "openapi"):
        served = call.services.models.catalogue if call.services.models is not None else ()
        model = next((entry.id for entry in served), None)
        document = build_openapi(state.endpoints, state.websocket_routes, model=model)
        state.openapi = orjson.dumps(document)
    return Response(state.openapi, media_type="application/json")


async def docs(call: Call) -> Response:
    """Lists the endpoints and lets one try them. Nothing of it comes from elsewhere."""
    file, kind = DOCS[call.request.scope["path"]]
    headers = {"content-security-policy": POLICY, "permissions-policy": "camera=(), microphone=()"}
    return Response(_read(file), headers=headers, media_type=kind)


@cache
def _read(file: str) -> bytes:
    return (files("grpo_host.serving.http") / "page" / file).read_bytes()
