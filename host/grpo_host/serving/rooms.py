"""Which modules make up the server. To add one: a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from grpo_host.serving.endpoint import Endpoint, SocketEndpoint


@dataclass(frozen=True, slots=True)
class Room:
    """A module with any of ``endpoints() -> list[Endpoint]``,
    ``websocket_routes() -> list[SocketEndpoint]`` and, where it fills a part of ``Services``,
    ``make_part(services) -> Part``."""

    module: str
    part: str | None = None

    def load(self) -> ModuleType:
        return import_module(self.module)


ROOMS = (
    Room("grpo_host.serving.observability", part="telemetry"),
    Room("grpo_host.serving.pool", part="models"),
    Room("grpo_host.serving.openai_api"),
    Room("grpo_host.serving.chat_api", part="chat"),
    Room("grpo_host.serving.websocket"),
    Room("grpo_host.serving.jobs", part="jobs"),
    Room("grpo_host.serving.traffic"),
    Room("grpo_host.serving.pages"),
)
"""In the order in which their parts start; they close in the opposite one."""


def rooms() -> Iterator[tuple[Room, ModuleType]]:
    """The rooms, imported."""
    for room in ROOMS:
        if find_spec(room.module) is not None:
            yield room, room.load()


def all_endpoints() -> list[Endpoint]:
    """Every endpoint of every room."""
    return [endpoint for offer in _offers("endpoints") for endpoint in offer()]


def all_websocket_routes() -> list[SocketEndpoint]:
    """Every WebSocket route of every room."""
    return [route for offer in _offers("websocket_routes") for route in offer()]


@cache
def _offers(name: str) -> tuple[Callable[[], list[Any]], ...]:
    # Taken once, before any is called: a package's submodule of the same name would then hide it.
    return tuple(getattr(module, name) for _, module in rooms() if hasattr(module, name))
