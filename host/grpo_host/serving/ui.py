"""``/ui``: the page of ``grpo-host view``, on the server. Files are for anyone, runs for the scope admin."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import UI, Call, Endpoint
from grpo_host.serving.services import Part
from grpo_host.viewer.endpoints import Endpoints
from grpo_host.viewer.files import FOLDER, POLICY, page_files
from grpo_host.viewer.viewed import Viewed
from grpo_sdk.errors import BusyError, ConfigError, RunError

if TYPE_CHECKING:
    from grpo_host.serving.services import Services

Answer = Callable[[Request], Any]


class ViewedRuns(Part):
    """The runs of the server's directory, and the API over them, by path."""

    def __init__(self, services: Services) -> None:
        self._viewed = Viewed([services.settings.runs], services.settings.trace_url)
        self.answers = _answers(self._viewed)

    async def close(self) -> None:
        """Stop indexing."""
        await asyncio.to_thread(self._viewed.close)


def make_part(services: Services) -> ViewedRuns:
    return ViewedRuns(services)


def endpoints() -> list[Endpoint]:
    runs = [
        Endpoint("GET", path, ask, Scope.ADMIN, "Of the page", takes_slot=False, documented=False)
        for path in _answers(Viewed([]))
    ]
    page = Endpoint(
        "GET", f"{UI}/{{file:path}}", show, None, "The page of `grpo-host view`", documented=False
    )
    short = Endpoint("GET", UI, enter, None, "Leads to the page", status=307, documented=False)
    return [*runs, short, page]


async def enter(_: Call) -> Response:
    """Relative, so that it also holds below the path of a proxy."""
    return Response(b"", 307, {"location": f"{UI[1:]}/"})


async def ask(call: Call) -> Response:
    """Reads files, so in a thread; the events of a run come as they happen."""
    answer = call.services.viewed.answers[call.request.scope["route"].path]
    try:
        if inspect.iscoroutinefunction(answer):
            response: Response = await answer(call.request)
        else:
            response = await asyncio.to_thread(answer, call.request)
    except BusyError as problem:
        raise ApiError(503, "busy", str(problem), retry_after=1.0) from None
    except ConfigError as problem:
        raise ApiError(400, "invalid_request", str(problem)) from None
    except RunError as problem:
        raise ApiError(404, "not_found", str(problem)) from None
    return response


async def show(call: Call) -> Response:
    """A file of the page. It asks for a key where one is needed."""
    name = call.path["file"] or "index.html"
    kind = page_files().get(name)
    if kind is None:
        raise ApiError(404, "not_found", "there is no such path")
    content = await asyncio.to_thread((FOLDER / name).read_bytes)
    return Response(content, headers={"content-security-policy": POLICY}, media_type=kind)


def _answers(viewed: Viewed) -> dict[str, Answer]:
    return {
        UI + route.path: route.endpoint for route in Endpoints(viewed).routes() if "{rest" not in route.path
    }
