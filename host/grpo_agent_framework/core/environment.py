"""``Environment``: the base class of environments that answer an agent's texts with dictionaries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any


class Environment(ABC):
    """Opens an episode with ``reset`` and answers the agent with ``step``.

    Each episode has a deep copy of the object that was given, since episodes run side by side.
    The host makes a ``PromptEnvironment`` of it: ``grpo_host.assembly.from_python.environments``.
    """

    prompt: str = ""
    """The episode's prompt, set before ``reset``."""
    prompts: Sequence[str] = ()
    """What the user opens episodes with if the caller gives no prompts."""
    held_out_prompts: Sequence[str] | None = None
    """What is only measured with; None: every fifth of ``prompts``."""

    @abstractmethod
    async def reset(self) -> Mapping[str, Any]:
        """Facts about the episode; ``messages`` among them stand before the prompt."""

    @abstractmethod
    async def step(self, action: str) -> Mapping[str, Any]:
        """``reward`` and ``done``, the user's next words as ``message``, and facts for rewards.

        An episode ends where it is ``done`` or the user says nothing more.
        """
