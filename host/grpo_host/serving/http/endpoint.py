"""What a room of the server offers: endpoints, their calls, and how they fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from grpo_host.serving.services import Services


class Scope(StrEnum):
    """What a key may do."""

    CHAT = "chat"
    """Talk to agents, and see one's own conversations."""
    TRAIN = "train"
    """Start, watch and cancel training jobs."""
    ADMIN = "admin"
    """See what concerns the whole server, such as its metrics."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who calls."""

    id: str
    name: str
    scopes: frozenset[Scope]
    owner: str
    """The person or team whose key it is: conversations and jobs are theirs, whichever of their keys made
    them."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


NOBODY = Key("", "", frozenset(), "")
"""Whoever calls a public endpoint."""
ANONYMOUS = Key("anonymous", "anonymous", frozenset(Scope), "anonymous")
"""Whoever calls over loopback a server that has no keys."""


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
    """Where the endpoint can answer with server-sent events: what each holds."""
    content_type: str = "application/json"
    """Of a response that is no JSON."""
    status: int = 200
    statuses: Mapping[int, str] = field(default_factory=dict)
    """Other answers than 200 and the errors that every endpoint may give: status → when."""
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


PUBLIC = frozenset(
    {
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }
)
"""All that may be asked for without a key."""
