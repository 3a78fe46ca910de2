"""Which features make up the server. To add one: a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from grpo_host.serving import jobs, ui
from grpo_host.serving.api import (
    chat,
    chat_completions,
    conversation_export,
    conversations,
    feedback,
    responses,
    websocket,
)
from grpo_host.serving.http import observability, pages, server_metrics
from grpo_host.serving.http.endpoint import Endpoint, SocketEndpoint
from grpo_host.serving.models import pool
from grpo_host.serving.services import Services


@dataclass(frozen=True, slots=True)
class Feature:
    """A module with any of ``endpoints() -> list[Endpoint]``, ``websocket_routes() -> list[SocketEndpoint]``
    and, if it fills a part of ``Services``, ``make_part(services) -> Part``."""

    module: ModuleType
    part: str | None = None


FEATURES = (
    Feature(observability, part="telemetry"),
    Feature(pool, part="models"),
    Feature(conversations, part="chat"),
    Feature(chat_completions),
    Feature(responses),
    Feature(conversation_export),  # before those whose paths end in any conversation's id
    Feature(chat),
    Feature(feedback),
    Feature(websocket),
    Feature(jobs, part="jobs"),
    Feature(server_metrics),
    Feature(ui, part="viewed"),
    Feature(pages),
)
"""In the order in which their parts start; they close in the opposite one."""


def add_parts(services: Services, given: Mapping[str, Any]) -> None:
    """Let every feature fill its part of ``services``, unless ``given`` has another in its place."""
    others = dict(given)
    for feature in FEATURES:
        if feature.part in others:
            services.add(feature.part, others.pop(feature.part))
        elif feature.part:
            services.add(feature.part, feature.module.make_part(services))
    for name, part in others.items():
        services.add(name, part)


def all_endpoints() -> list[Endpoint]:
    """Every endpoint of every feature."""
    return [
        endpoint
        for feature in FEATURES
        for endpoint in (feature.module.endpoints() if hasattr(feature.module, "endpoints") else ())
    ]


def all_websocket_routes() -> list[SocketEndpoint]:
    """Every WebSocket route of every feature."""
    return [
        route
        for feature in FEATURES
        for route in (
            feature.module.websocket_routes() if hasattr(feature.module, "websocket_routes") else ()
        )
    ]
