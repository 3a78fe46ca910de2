"""A plugin whose hook wants an argument that the specification does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_sdk import hookimpl


@hookimpl
def grpo_rewards(host: Any) -> Mapping[str, Any]:
    return {"acme_never": host}
