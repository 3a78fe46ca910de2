"""Jobs on a database of their own, with a process that writes what training would."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_host.plugins import Registry, load_plugins
from grpo_host.serving.jobs.plan import Plan, default_config
from grpo_host.serving.jobs.queue import JobQueue, Timing
from grpo_host.serving.jobs.record import JobPlan
from grpo_host.serving.jobs.request import TrainRequest
from grpo_host.serving.jobs.store import JobStore
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate

STAND_IN = Path(__file__).with_name("stand_in.py")


def stand_in(directory: Path) -> list[str]:
    """The command of the process that speaks a run directory's files, but trains nothing."""
    import os

    return [sys.executable, str(STAND_IN), "--parent", str(os.getpid()), str(directory)]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"


@asynccontextmanager
async def open_store(url: str, *, lease: float = 30.0) -> AsyncIterator[JobStore]:
    engine = database.make_engine(url)
    try:
        await migrate(engine)
        yield JobStore(engine, lease=lease)
    finally:
        await engine.dispose()


@dataclass
class Queues:
    """Makes queues, each with its own connections as another server would have them."""

    url: str
    runs: Path
    registry: Registry

    @asynccontextmanager
    async def open(
        self, *, lease: float = 10.0, start: bool = True, stop: float = 20.0, **options: Any
    ) -> AsyncIterator[JobQueue]:
        async with open_store(self.url, lease=lease) as store:
            queue = JobQueue(
                store,
                Plan(default_config("agent"), self.registry),
                options.pop("runs", self.runs),
                options.pop("command", stand_in),
                timing=Timing(look=0.05, stop=stop),
                **options,
            )
            if start:
                await queue.start()
            try:
                yield queue
            finally:
                await queue.close()


@pytest.fixture
def queues(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> Queues:
    """On SQLite, unless a test asks for ``postgres_url`` by parameter."""
    url = request.getfixturevalue(getattr(request, "param", "sqlite_url"))
    return Queues(url, tmp_path / "runs", registry)


@pytest.fixture
def jobs() -> Iterator[SimpleNamespace]:
    """What these tests share: ``plan``, ``request``, ``open_store``, ``stand_in``."""

    def plan(strategy: str = "computational", steps: int = 3) -> JobPlan:
        return JobPlan(strategy, "agent", steps, "name: agent\n")

    def request(*prompts: str, steps: int = 3, **options: Any) -> TrainRequest:
        """For the stand-in, the first prompt says what is to happen."""
        return TrainRequest(prompts=list(prompts or ("Hello",)), num_iterations=steps, **options)

    return SimpleNamespace(plan=plan, request=request, open_store=open_store, stand_in=stand_in)
