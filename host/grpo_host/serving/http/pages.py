"""What anyone may ask: is the server there, is it ready, what does it offer."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Literal

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.http.openapi import build_openapi


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
        Endpoint(
            "GET",
            "/docs",
            docs,
            None,
            "The page that shows it",
            ["documentation"],
            content_type="text/html",
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
        state.openapi = orjson.dumps(build_openapi(state.endpoints, state.websocket_routes))
    return Response(state.openapi, media_type="application/json")


async def docs(_: Call) -> Response:
    """Lists the endpoints and lets one try them. Nothing of it comes from elsewhere."""
    page, policy = _page()
    headers = {"content-security-policy": policy, "permissions-policy": "camera=(), microphone=()"}
    return Response(page, headers=headers, media_type="text/html")


@cache
def _page() -> tuple[bytes, str]:
    """The page, and the policy that lets a browser run exactly its script and style."""
    folder = files("grpo_host.serving.http") / "page"
    texts = {
        name: (folder / file).read_text("utf-8")
        for name, file in (("style", "docs.css"), ("script", "docs.js"))
    }
    page = (folder / "docs.html").read_text("utf-8")
    for name, text in texts.items():
        page = page.replace(f"{{{name}}}", text)
    policy = (
        f"default-src 'none'; script-src '{_digest(texts['script'])}'; "
        f"style-src '{_digest(texts['style'])}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
