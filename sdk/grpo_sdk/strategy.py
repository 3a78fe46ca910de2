"""Strategies: who the agent is: its system prompt, its style and the tools it uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strategy:
    """What makes an agent a customer-service agent, a tutor, …"""

    name: str
    """As agent.yaml and requests name it."""
    system_prompt: str = ""
    """Who the agent is and what it does; empty: no system message."""
    style: str = ""
    """A sentence on tone, placed after the system prompt."""
    tools: tuple[str, ...] | None = None
    """Names of the tools it may use; None: all that are given."""

    @property
    def instructions(self) -> str:
        """The text of the system message."""
        return "\n".join(part for part in (self.system_prompt, self.style) if part)
