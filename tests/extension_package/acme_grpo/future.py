"""A plugin for a hook API that does not exist yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_sdk import hookimpl

GRPO_HOOK_API = (99, 99)


@hookimpl
def grpo_rewards() -> Mapping[str, Any]:
    return {"acme_from_the_future": None}
