"""A job, its state, and the tables that keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    """Waits for its turn; also if its server ended in good order, and it goes on from its checkpoint."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It cannot run; ``error`` says why."""
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It was cut off and cannot go on; ``error`` says why."""

    @property
    def final(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What is to be done."""

    strategy: str
    """As the request named it."""
    agent: str
    """Names the folder of the run directory."""
    steps: int
    config: str
    """The text of agent.yaml, without ``output``: each machine has its own directory of runs."""
    notes: list[str] = field(default_factory=list)
    """What whoever asked for it should know."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row, without its agent.yaml."""

    id: str
    number: int
    """In the order of submission, from 1."""
    owner: str
    """Of the key that made it."""
    state: State
    strategy: str
    """As the request named it."""
    agent: str
    """Names the folder of its run directory."""
    notes: list[str]
    """What whoever asked for it should know."""
    steps: int
    """How many training steps it is to make."""
    run_id: str | None
    """Names its run directory; None before it runs."""
    attempts: int
    """How often it was begun since it last got further."""
    reached: int
    """The last training step that is known to be done."""
    cancel: bool
    """It is to be cancelled."""
    created: float
    started: float | None
    finished: float | None
    error: str | None
    result: dict[str, Any] | None
