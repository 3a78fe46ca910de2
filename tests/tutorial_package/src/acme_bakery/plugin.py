"""What the plugin offers: names for agent.yaml, and what makes the named things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_sdk import hookimpl


@hookimpl
def grpo_rewards() -> Mapping[str, Any]:
    from acme_bakery.reward import looked_up

    return {"looked_up": looked_up}


@hookimpl
def grpo_tools() -> Mapping[str, Any]:
    from acme_bakery.tool import price_of

    return {"price_of": price_of}


@hookimpl
def grpo_environments() -> Mapping[str, Any]:
    from acme_bakery.environment import Counter

    return {"counter": Counter}
