"""A connection to SQLite that goes to its thread once a statement.

aiosqlite's own goes there to make a cursor, to execute, to fetch, and to close it; a BEGIN does the same
again. At many small transactions a second, that is most of what they cost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any

import aiosqlite


def connect(*args: Any, **options: Any) -> Connection:
    """As ``aiosqlite.connect``, for SQLAlchemy's ``async_creator_fn``."""
    made = Connection(partial(sqlite3.connect, *args, **options), iter_chunk_size=64)
    made._thread.daemon = True  # as SQLAlchemy does with those that it makes
    return made


class Connection(aiosqlite.Connection):
    """Results are fetched with their statement, and a transaction begins with its first one."""

    _begin: str | None = None
    _sent = False
    """Something may be neither committed nor rolled back."""

    def begin(self, statement: str | None) -> None:
        """Let ``statement`` go before the next one; None: no transaction, each is one by itself."""
        self._begin = statement

    def cursor(self) -> Cursor:  # type: ignore[override]
        return Cursor(self)

    async def commit(self) -> None:
        await self._end(super().commit)

    async def rollback(self) -> None:
        await self._end(super().rollback)

    async def _end(self, end: Any) -> None:
        self._begin = None
        if self._sent:
            await end()
            self._sent = False

    async def run(self, method: str, *args: Any) -> tuple[Any, list[Any], int, int | None]:
        """What a cursor has after ``method``: description, rows, number of rows, last id."""
        begin, self._begin = self._begin, None
        self._sent = self._sent or begin is not None
        try:
            result: tuple[Any, list[Any], int, int | None] = await self._execute(  # type: ignore[no-untyped-call]
                _run, self._conn, begin, method, args
            )
        except sqlite3.Error:
            if not self._conn.in_transaction:
                self._begin = begin  # it was refused: what comes next must not be outside of a transaction
            raise
        return result


class Cursor:
    """The part of aiosqlite's that SQLAlchemy uses for what is fetched whole."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Cursor:
        return self

    def __await__(self) -> Generator[Any, None, Cursor]:
        """SQLAlchemy 2.0 awaits a new cursor, 2.1 enters it."""
        return self.__aenter__().__await__()

    async def execute(self, operation: str, parameters: Iterable[Any] = ()) -> Cursor:
        return await self._run("execute", operation, parameters)

    async def executemany(self, operation: str, parameters: Iterable[Any]) -> Cursor:
        return await self._run("executemany", operation, parameters)

    async def fetchall(self) -> Sequence[Any]:
        return self._rows

    async def close(self) -> None:
        self._rows = []

    async def _run(self, method: str, *args: Any) -> Cursor:
        found = await self._connection.run(method, *args)
        self.description, self._rows, self.rowcount, self.lastrowid = found
        return self


def _run(
    connection: sqlite3.Connection, begin: str | None, method: str, args: Sequence[Any]
) -> tuple[Any, list[Any], int, int | None]:
    if begin is not None:
        connection.execute(begin)
    cursor = connection.cursor()
    try:
        getattr(cursor, method)(*args)
        rows = cursor.fetchall() if cursor.description else []
        return cursor.description, rows, cursor.rowcount, cursor.lastrowid
    finally:
        cursor.close()
