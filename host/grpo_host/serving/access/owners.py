"""Whose the conversations and jobs in the database are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select, update

from grpo_host.storage.tables import conversations, jobs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def adopt(connection: AsyncConnection, owner: str, new: str) -> None:
    """Everything of ``owner`` becomes ``new``'s."""
    for table in (conversations, jobs):
        await connection.execute(update(table).where(table.c.owner == owner).values(owner=new))


async def owned(connection: AsyncConnection, owner: str) -> int:
    """How many conversations are ``owner``'s."""
    query = select(func.count()).select_from(conversations).where(conversations.c.owner == owner)
    return int(await connection.scalar(query) or 0)
