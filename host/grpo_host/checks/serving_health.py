"""Can the agent be served here: is the port free, and does the database answer?"""

from __future__ import annotations

import asyncio
import errno
import socket

from grpo_host.checks.findings import Finding
from grpo_host.storage import database
from grpo_sdk.errors import GrpoError

DATABASE_SECONDS = 10.0


def examine_port(host: str, port: int) -> Finding:
    """Whether ``grpo-host serve`` could listen there now."""
    subject = f"port {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            taken = problem.errno == errno.EADDRINUSE
            return Finding(
                "warning",
                subject,
                f"{host}:{port} {'is taken' if taken else f'cannot be used: {problem.strerror}'}",
                "end what listens there, or set serving.port (0: any free one) or serve --port",
            )
    return Finding("ok", subject, f"{host}:{port} is free")


def examine_database(url: str, source: str) -> Finding:
    """Whether the database of ``source``, the variable that names it, answers."""
    try:
        return asyncio.run(_answer(url))
    except GrpoError as problem:
        return Finding("error", "database", str(problem), f"mend {source}, or unset it to use SQLite")


async def _answer(url: str) -> Finding:
    from sqlalchemy import text

    engine = database.make_engine(url)
    try:
        async with asyncio.timeout(DATABASE_SECONDS), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (*database.NO_ANSWER, TimeoutError) as problem:
        raise database.unreachable(engine, problem) from problem
    finally:
        await engine.dispose()
        await asyncio.sleep(0.1)  # aiosqlite's thread tells the loop that the file is closed; see migrate()
    return Finding("ok", "database", f"{database.describe(engine)} answers")
