"""Environments: pose a task, play the user, own the state, say when an episode is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_sdk.messages import Message
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_sdk.tools import ToolLike

TRAIN = "train"
"""The split that is trained on."""
HELD_OUT = "held_out"
"""The split that the agent is evaluated on; it shares no task with ``TRAIN``."""


@dataclass(frozen=True, slots=True)
class Observation:
    """How an episode begins."""

    messages: list[Message]
    """Usually one user message; a leading system message is placed after the strategy's own."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The environment's answer to what the agent said."""

    messages: list[Message] = field(default_factory=list)
    """The user's next words; empty if the episode is done."""
    done: bool = False
    """The episode ends here."""
    outcome: dict[str, Any] = field(default_factory=dict)
    """Facts for rewards and reports, merged into the trajectory's; ``success: bool`` by convention."""
    reward: float | None = None
    """The reward of this step, a finite number. Their sum is the trajectory's ``environment_reward``, which
    the reward ``environment`` reads."""


class Environment(ABC):
    """One instance an episode: ``reset`` → ``step``… → ``close``.

    ``tasks`` is called on an instance of its own and must not depend on an episode.
    ``reset``, ``step`` and ``close`` are coroutines: hundreds of episodes share one event loop,
    so blocking work belongs in ``grpo_sdk.blocking.call_blocking``.
    """

    start_seconds: float = 0.0
    """How long listing its tasks and one ``reset`` may take at first, while it loads what it needs, if that
    is longer than ``agent.limits.probe_seconds``, after which ``grpo-host check`` gives up."""

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of ``split``, in a stable order. Splits are disjoint.

        They are ``train``, ``held_out`` and, if offered, ``validation``, by which early stopping chooses.
        Raises ``ValueError`` for any other.
        """

    @abstractmethod
    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Begin ``task``. The same task and seed begin the same episode."""

    @abstractmethod
    async def step(self, action: Message) -> StepResult:
        """Answer the agent's message (one without tool calls)."""

    def follow(self, messages: Sequence[Message]) -> None:
        """Hear all that was said since the last ``step``, calls of tools and their results included.

        Called before each ``step``, and before ``outcome`` if a limit ends the episode: how an environment
        learns what an agent did with tools that are not the environment's.
        """

    def tools(self) -> Sequence[ToolLike] | Awaitable[Sequence[ToolLike]]:
        """Tools bound to this episode's state; called once, after ``reset``. May be a coroutine."""
        return ()

    def serving_tools(self) -> Sequence[ToolLike]:
        """Tools that replace ``tools`` when the agent is served and there is no episode; empty: none.

        They have the same names and schemas, and use the real system or demonstration data. Called
        once, on an instance that is never reset and is closed when the server ends; all conversations
        share them.
        """
        return ()

    def outcome(self) -> dict[str, Any]:
        """Facts known so far; read when an episode ends by a limit rather than by ``done``."""
        return {}

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        """Dialogues worth imitating, for a supervised warm start. Empty if there are none.

        Each is a list of messages of which the assistant's are imitated.
        """
        return ()

    async def close(self) -> None:
        """Release what the episode holds. Always called, also after a failure; safe to call twice."""
