"""Remove keys from text that others will see."""

from __future__ import annotations

import re

ANY_TOKEN = re.compile(r"grpo_[0-9a-fA-F]{8,}_[A-Za-z0-9_%-]+")
"""What looks like a key of the server."""


def redact(text: str) -> str:
    """``text`` without anything that looks like a key."""
    return ANY_TOKEN.sub("grpo_***", text) if "grpo_" in text else text
