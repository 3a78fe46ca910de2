"""The server as one ASGI app."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from grpo_host.plugins import load_plugins
from grpo_host.rollouts.gc_pause import short_collections
from grpo_host.serving.access.auth import Authentication
from grpo_host.serving.features import add_parts, all_endpoints, all_websocket_routes
from grpo_host.serving.http.dispatch import EndpointApp, SocketApp
from grpo_host.serving.http.draining import drain_at_signals
from grpo_host.serving.http.endpoint import Endpoint, SocketEndpoint
from grpo_host.serving.http.errors import not_routed
from grpo_host.serving.http.middleware import Envelope, TrustedHosts
from grpo_host.serving.http.observability import Watched
from grpo_host.serving.services import Services
from grpo_host.serving.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Registry


def create_app(
    settings: ServerSettings,
    registry: Registry | None = None,
    *,
    loaded: LoadedConfig | None = None,
    endpoints: Sequence[Endpoint] | None = None,
    websocket_routes: Sequence[SocketEndpoint] | None = None,
    **parts: Any,
) -> Starlette:
    """The server. ``parts`` stand in for those that the features would make (``models=...``).

    ``app.state.services`` has its ``Services``; they start and end with the app's lifespan.
    """
    if registry is None:
        registry = load_plugins(settings.plugins)
    if loaded is None and settings.agent_yaml is not None:
        from grpo_host.config.load import load_config

        loaded = load_config(settings.agent_yaml, settings.overrides, registry)
    services = Services(settings, registry, loaded=loaded)
    add_parts(services, parts)
    endpoints = all_endpoints() if endpoints is None else endpoints
    websocket_routes = all_websocket_routes() if websocket_routes is None else websocket_routes
    app = Starlette(
        routes=[*_routes(endpoints, services), *_websocket_routes(websocket_routes, services)],
        middleware=_middleware(settings, services),
        exception_handlers={HTTPException: _refuse},
        lifespan=_lifespan,
    )
    # A redirect to the path with or without a slash would be built from the Host header.
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.endpoints, app.state.websocket_routes = list(endpoints), list(websocket_routes)
    return app


def from_environment() -> ASGIApp:
    """The server of ``ServerSettings.from_environment``: what uvicorn's workers import."""
    return create_app(ServerSettings.from_environment())


def _routes(endpoints: Sequence[Endpoint], services: Services) -> list[BaseRoute]:
    by_path: dict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        by_path[endpoint.path].append(endpoint)
    return [Route(path, EndpointApp(found, services)) for path, found in by_path.items()]


def _websocket_routes(routes: Sequence[SocketEndpoint], services: Services) -> list[BaseRoute]:
    return [WebSocketRoute(route.path, SocketApp(route, services)) for route in routes]


def _middleware(settings: ServerSettings, services: Services) -> list[Middleware]:
    layers = [
        Middleware(Envelope, traffic=services.traffic, allowed_origins=settings.allowed_origins),
        Middleware(TrustedHosts, settings=settings),
    ]
    if services.telemetry is not None:
        layers.insert(0, Middleware(Watched, telemetry=services.telemetry))
    return [*layers, Middleware(Authentication, services=services)]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    services: Services = app.state.services
    try:
        with drain_at_signals(services):
            await services.start()
            with short_collections():
                yield
    finally:
        await asyncio.shield(services.close())


async def _refuse(_: Request, problem: Exception) -> Response:
    if isinstance(problem, HTTPException):
        raise not_routed(problem)
    raise problem
