"""What a feature of the server offers: endpoints and WebSocket routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_host.serving.access.caller import Key, Scope
from grpo_host.viewer.files import page_files

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from grpo_host.serving.services import Services


@dataclass(slots=True)
class Call:
    """One request to an endpoint, authenticated and validated."""

    request: Request
    services: Services
    key: Key
    request_id: str
    body: Any = None
    """An instance of the endpoint's ``request``."""
    query: Any = None
    """An instance of the endpoint's ``query``."""

    @property
    def path(self) -> Mapping[str, str]:
        """The parameters in the path."""
        parameters: dict[str, str] = self.request.path_params
        return parameters


Handler = Callable[[Call], Awaitable["BaseModel | Response"]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route of the server.

    ``handler`` is cancelled when the client goes away. What it returns is sent as JSON, unless it is a
    Starlette response; it fails by raising ``ApiError`` or another ``GrpoError``.
    """

    method: str
    path: str
    """As Starlette has it: ``/api/jobs/{job_id}``."""
    handler: Handler
    scope: Scope | None
    """What the caller's key must have; None only for routes that are in ``PUBLIC``."""
    summary: str
    tags: Sequence[str] = ()
    request: type[BaseModel] | None = None
    """The JSON body."""
    query: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    stream: type[BaseModel] | None = None
    """What each server-sent event holds, if the endpoint can answer with them."""
    content_type: str = "application/json"
    """Of a response that is no JSON."""
    status: int = 200
    statuses: Mapping[int, str] = field(default_factory=dict)
    """Other answers than 200 and the errors that every endpoint may give: status → when."""
    documented: bool = True
    """Whether openapi.json has it: what only a page of ours asks for is not in there."""
    takes_slot: bool = True
    """Whether it counts towards the requests that are answered at once; not so for endpoints that
    only wait, such as the progress of a job."""
    exclude_none: bool = False
    """Leave out of the response what is None."""


SocketHandler = Callable[["WebSocket", Key, "Services"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SocketEndpoint:
    """A WebSocket route. ``handler`` gets it accepted and authenticated; ends with 1001 at shutdown.

    The handler should watch ``services.draining`` (an ``asyncio.Event``) and close when it is idle.
    """

    path: str
    handler: SocketHandler
    scope: Scope
    summary: str


UI = "/ui"
"""Where the page of `grpo-host view` is, which holds nothing; what it asks for needs a key."""

PUBLIC = frozenset(
    {
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/docs/docs.css"),
        ("GET", "/docs/docs.js"),
        ("GET", "/docs/swagger-ui.css"),
        ("GET", "/docs/swagger-ui.js"),
        ("GET", UI),
        ("GET", f"{UI}/{{file:path}}"),
        *(("GET", f"{UI}/{file}") for file in ("", *page_files())),
    }
)
"""All that may be asked for without a key."""
