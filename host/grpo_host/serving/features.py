"""Which modules make up the server. To add one: a line here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from grpo_host.serving.http.endpoint import Endpoint, SocketEndpoint


@dataclass(frozen=True, slots=True)
class Room:
    """A module with any of ``endpoints() -> list[Endpoint]``,
    ``websocket_routes() -> list[SocketEndpoint]`` and, where it fills a part of ``Services``,
    ``make_part(services) -> Part``."""

    module: str
    part: str | None = None


ROOMS = (
    Room("grpo_host.serving.http.observability", part="telemetry"),
    Room("grpo_host.serving.models.pool", part="models"),
    Room("grpo_host.serving.api.chat_completions"),
    Room("grpo_host.serving.api.responses"),
    Room("grpo_host.serving.api.chat", part="chat"),
    Room("grpo_host.serving.api.websocket"),
    Room("grpo_host.serving.jobs", part="jobs"),
    Room("grpo_host.serving.http.traffic"),
    Room("grpo_host.serving.http.pages"),
)
"""In the order in which their parts start; they close in the opposite one."""


def rooms() -> Iterator[tuple[Room, ModuleType]]:
    """The rooms, imported."""
    for room in ROOMS:
        yield room, import_module(room.module)


def all_endpoints() -> list[Endpoint]:
    """Every endpoint of every room."""
    return [
        endpoint
        for _, module in rooms()
        for endpoint in (module.endpoints() if hasattr(module, "endpoints") else ())
    ]


def all_websocket_routes() -> list[SocketEndpoint]:
    """Every WebSocket route of every room."""
    return [
        route
        for _, module in rooms()
        for route in (module.websocket_routes() if hasattr(module, "websocket_routes") else ())
    ]
