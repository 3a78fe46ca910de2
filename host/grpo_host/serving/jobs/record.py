"""A job, where it stands, and the tables that keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Double, Index, Integer, String, Table, Text

from grpo_host.storage.database import metadata

jobs = Table(
    "grpo_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("owner", String(400), nullable=False),
    Column("state", String(20), nullable=False),
    Column("strategy", String(100), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("config", Text, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("run_id", String(64)),
    Column("holder", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("reached", Integer, nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("error", Text),
    Column("result", JSON),
    Index("grpo_jobs_by_state", "state", "number"),
    Index("grpo_jobs_by_owner", "owner", "number"),
)

places = Table(
    "grpo_training_places",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String(64)),
    Column("expires", Double, nullable=False),
    Column("jobs", Integer, nullable=False),
)

TABLES = (jobs, places)
PLACE = "training"


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    """Waits for its turn; also where its server ended in good order, and it goes on from its checkpoint."""
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
