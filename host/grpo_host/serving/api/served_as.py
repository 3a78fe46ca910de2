"""Note who is answered and by which model, for spans and for the owner's usage."""

from __future__ import annotations

from grpo_host.agents.tracing import SERVED, Served
from grpo_host.serving.access.caller import Key
from grpo_host.serving.models.catalogue import Entry
from grpo_host.serving.services import Services


def serve_as(services: Services, key: Key, entry: Entry, response_id: str | None = None) -> None:
    """From here on this context answers the owner of ``key`` with ``entry``."""
    run = entry.run.name if entry.run is not None else None
    adapter = str(entry.adapter) if entry.adapter is not None else None
    SERVED.set(Served(services.settings.agent, key.owner, run, adapter, response_id))
    services.usage.request(key.owner)
