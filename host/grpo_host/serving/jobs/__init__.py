"""Training jobs: kept in the database, run one at a time in a process of their own.

Importing this imports nothing else: the process of a job is ``grpo_host.serving.jobs.child``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_host.serving.http.endpoint import Endpoint
    from grpo_host.serving.jobs.queue import JobQueue
    from grpo_host.serving.services import Services


def endpoints() -> list[Endpoint]:
    """The feature's routes."""
    from grpo_host.serving.jobs.routes import job_endpoints

    return job_endpoints()


def make_part(services: Services) -> JobQueue:
    """The queue of the server's jobs."""
    from grpo_host.serving.jobs.plan import Plan, default_config
    from grpo_host.serving.jobs.process import training_command
    from grpo_host.serving.jobs.queue import JobQueue
    from grpo_host.serving.jobs.store import JobStore

    settings = services.settings
    loaded = services.loaded or default_config(settings.agent)
    return JobQueue(
        JobStore(services.database),
        Plan(loaded, services.registry),
        settings.runs,
        training_command(settings.plugins),
        max_queued=settings.max_queued_jobs,
    )
