"""Jobs in the server's database, and the one place where a job runs.

The place is a row that whoever runs a job holds for a while and renews: the lease. A process that dies
stops renewing; another takes the place when the lease has lapsed and finds the job that was running.
Everything that decides who runs what happens under a lock of that row, and whoever no longer holds the
place cannot change the job.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, func, insert, select, update

from grpo_host.runs.directory import new_run_id
from grpo_host.serving.jobs.record import Job, JobPlan, State
from grpo_host.storage.database import now as database_time
from grpo_host.storage.database import reached, reading, writing
from grpo_host.storage.tables import PLACE, jobs, places

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_FIELDS = tuple(field.name for field in fields(Job))


class QueueFullError(Exception):
    """As many jobs wait as may."""


class JobStore:
    """All jobs of all servers that share the database. ``lease``: seconds until a dead one's lapses."""

    def __init__(self, engine: AsyncEngine, *, lease: float = 30.0) -> None:
        self._engine = engine
        self.lease = lease

    async def submit(self, owner: str, plan: JobPlan, *, max_queued: int) -> Job:
        """Put a job at the end of the queue. Raises ``QueueFullError``."""
        async with self._place() as (connection, place, now):
            waiting = await connection.scalar(
                select(func.count()).select_from(jobs).where(jobs.c.state == State.QUEUED)
            )
            if (waiting or 0) >= max_queued:
                raise QueueFullError
            job = Job(
                id=f"job_{secrets.token_hex(12)}",
                number=place.jobs + 1,
                owner=owner,
                state=State.QUEUED,
                strategy=plan.strategy,
                agent=plan.agent,
                notes=plan.notes,
                steps=plan.steps,
                run_id=None,
                attempts=0,
                reached=0,
                cancel=False,
                created=now,
                started=None,
                finished=None,
                error=None,
                result=None,
            )
            await connection.execute(update(places).values(jobs=job.number).where(places.c.name == PLACE))
            row = {name: getattr(job, name) for name in _FIELDS}
            await connection.execute(insert(jobs).values({**row, "config": plan.config}))
            return job

    async def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """The job, if there is one and it is ``owner``'s (None: anybody's)."""
        found = await self._read(_jobs(owner).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def list(
        self, owner: str | None = None, *, state: State | None = None, limit: int = 20, offset: int = 0
    ) -> Sequence[Job]:
        """Jobs, the newest first."""
        query = _jobs(owner).order_by(jobs.c.number.desc()).limit(limit).offset(offset)
        return await self._read(query if state is None else query.where(jobs.c.state == state))

    async def config(self, job_id: str) -> str:
        """The text of the job's agent.yaml, without ``output``."""
        async with reading(self._engine) as connection:
            return str(await connection.scalar(select(jobs.c.config).where(jobs.c.id == job_id)))

    async def ask_to_cancel(self, job_id: str) -> Job | None:
        """Cancel a job that waits; have one that runs cancelled. What it is then; None: there is none."""
        async with self._place() as (connection, _, now):
            job = await _one(connection, job_id)
            if job is None or job.state.final:
                return job
            values: dict[str, Any] = {"cancel": True}
            if job.state is State.QUEUED:
                values |= {"state": State.CANCELLED, "finished": now}
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
            return await _one(connection, job_id)

    async def something_to_do(self) -> bool:
        """Whether ``take`` may find a job, asked without a lock."""
        async with reading(self._engine) as connection:
            now = await database_time(connection)
            query = select(places.c.name).where(
                places.c.name == PLACE,
                places.c.holder.is_(None) | (places.c.expires <= now),
                select(jobs.c.id).where(jobs.c.state.in_([State.QUEUED, State.RUNNING])).exists(),
            )
            return (await connection.execute(query)).first() is not None

    async def take(self) -> tuple[Job, str] | None:
        """The job to run now and the name of who holds the place for it, which is to be renewed.

        First the one that was running when its process died, then the one that waits longest. None
        if the place is held or there is nothing to do.
        """
        async with self._place() as (connection, place, now):
            if place.holder is not None and place.expires > now:
                return None
            job = await _first(connection, State.RUNNING) or await _first(connection, State.QUEUED)
            if job is None:
                return None
            holder = secrets.token_hex(16)
            values = {
                "state": State.RUNNING,
                "holder": holder,
                "attempts": job.attempts + 1,
                "run_id": job.run_id or new_run_id(),
                "started": job.started or now,
            }
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))
            await self._hold(connection, holder, now)
            taken = await _one(connection, job.id)
            return None if taken is None else (taken, holder)

    async def renew(self, holder: str, *, reached: int) -> bool:
        """Hold the place for another ``lease`` seconds; False if somebody else has taken it.

        ``reached``: the last step that is done. A job that gets further may be begun anew as often as
        at first.
        """
        async with self._place() as (connection, place, now):
            if place.holder != holder:
                return False
            await self._hold(connection, holder, now)
            await connection.execute(
                update(jobs)
                .where(jobs.c.holder == holder, jobs.c.reached < reached)
                .values(reached=reached, attempts=1)
            )
            return True

    async def wants_cancel(self, job_id: str) -> bool:
        """Whether somebody asked for the job to be cancelled."""
        async with reading(self._engine) as connection:
            return bool(await connection.scalar(select(jobs.c.cancel).where(jobs.c.id == job_id)))

    async def settle(
        self,
        holder: str,
        state: State,
        *,
        error: str | None = None,
        result: dict[str, Any] | None = None,
        reached: int = 0,
        counts: bool = True,
    ) -> bool:
        """Say how the job that ``holder`` runs ended, and free the place; False if it is not its any more.

        ``QUEUED``: it goes on when a server takes it again, before all that wait; if the attempt
        does not count, it may be begun anew as often as before.
        """
        async with self._place() as (connection, place, now):
            if place.holder != holder:
                return False
            values: dict[str, Any] = {"state": state, "error": error, "result": result, "holder": None}
            if state.final:
                values["finished"] = now
            if not counts:
                values["attempts"] = jobs.c.attempts - 1
            if reached:
                values["reached"] = reached
            await connection.execute(update(jobs).where(jobs.c.holder == holder).values(values))
            await connection.execute(
                update(places).where(places.c.name == PLACE).values(holder=None, expires=0.0)
            )
            return True

    async def _hold(self, connection: AsyncConnection, holder: str, now: float) -> None:
        await connection.execute(
            update(places).where(places.c.name == PLACE).values(holder=holder, expires=now + self.lease)
        )

    async def _read(self, query: Select[Any]) -> Sequence[Job]:
        async with reading(self._engine) as connection:
            return [_job(row) for row in await connection.execute(query)]

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[tuple[AsyncConnection, Any, float]]:
        """A transaction that no other process's runs beside; the row of the place, and the time."""
        with reached(self._engine):
            async with writing(self._engine) as connection:
                rows = await connection.execute(
                    select(places).where(places.c.name == PLACE).with_for_update()
                )
                # The time comes after the lock: it may have been waited for.
                yield connection, rows.one(), await database_time(connection)


def _jobs(owner: str | None) -> Select[Any]:
    query = select(*(jobs.c[name] for name in _FIELDS))
    return query if owner is None else query.where(jobs.c.owner == owner)


async def _one(connection: AsyncConnection, job_id: str) -> Job | None:
    row = (await connection.execute(_jobs(None).where(jobs.c.id == job_id))).first()
    return None if row is None else _job(row)


async def _first(connection: AsyncConnection, state: State) -> Job | None:
    query = _jobs(None).where(jobs.c.state == state).order_by(jobs.c.number).limit(1)
    row = (await connection.execute(query)).first()
    return None if row is None else _job(row)


def _job(row: Any) -> Job:
    values = dict(row._mapping)
    return Job(**{**values, "state": State(values["state"])})
