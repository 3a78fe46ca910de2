"""Requests that may be sent again: one idempotency key, one answer, whichever process is asked.

A claim is a row that the first request makes before anything happens, and renews while it is answered. The
answer goes into it in the transaction that stores the conversation's messages: so there are both or
neither, and a process that dies in between leaves a claim that lapses and that the retry takes over.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import delete, select, update

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.storage.database import insert_for, now, reached, writing
from grpo_host.storage.tables import claims as _claims
from grpo_host.storage.tables import conversations
from grpo_host.utils.shielded import to_its_end
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

logger = logging.getLogger("grpo_host.serving")

LEASE_SECONDS = 30.0
"""After which the claim of a process that died may be taken over."""
KEPT_SECONDS = 86_400.0
"""How long a request may be sent again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer a request, and the one answer to it if there is one already."""

    owner: str
    key: str
    holder: str
    conversation_id: str
    """Of the request, or the one that is to begin with it."""
    response: dict[str, Any] | None = None

    @property
    def _rows(self) -> list[ColumnElement[bool]]:
        mine = (
            _claims.c.owner == self.owner,
            _claims.c.key == self.key,
            _claims.c.holder == self.holder,
        )
        return list(mine)


class Claims:
    """The claims of all servers on one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def hold(
        self, owner: str, key: str, request: Mapping[str, Any], conversation_id: str | None
    ) -> AsyncIterator[Claim]:
        """The claim to answer ``request``; given up again if that fails.

        Raises ``ApiError``: 409 while the same request is being answered, 422 if the key was used for
        another one.
        """
        claim = await self._claim(owner, key, _fingerprint(request), conversation_id or uuid4().hex)
        if claim.response is not None:
            yield claim
            return
        renewing = asyncio.create_task(self._renew(claim))
        try:
            yield claim
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            # What was answered stays; see the condition.
            with suppress(GrpoError):  # else it lapses
                await to_its_end(self._give_up(claim))

    def answered(
        self, claim: Claim, response: dict[str, Any]
    ) -> Callable[[AsyncConnection], Awaitable[None]]:
        """Keeps ``response``, in the transaction that stores what it answers."""

        async def work(connection: AsyncConnection) -> None:
            done = await connection.execute(update(_claims).where(*claim._rows).values(response=response))
            if done.rowcount != 1:  # it had lapsed: whoever took it over answers, and nothing is doubled
                raise _in_progress()

        return work

    async def forget(self, before: float) -> None:
        """Forget the answers from before the Unix time ``before``, and those whose conversation is gone."""
        gone = _claims.c.response.is_not(None) & ~(
            select(conversations.c.id).where(conversations.c.id == _claims.c.conversation_id).exists()
        )
        old = (_claims.c.created < before) & (_claims.c.expires < before)
        async with self._writing() as connection:
            await connection.execute(delete(_claims).where(gone | old))

    async def _claim(self, owner: str, key: str, fingerprint: str, conversation_id: str) -> Claim:
        holder = secrets.token_hex(16)
        async with self._writing() as connection:
            moment = await now(connection)
            row = {
                "owner": owner,
                "key": key,
                "fingerprint": fingerprint,
                "conversation_id": conversation_id,
                "holder": holder,
                "expires": moment + LEASE_SECONDS,
                "created": moment,
            }
            insert = insert_for(connection.dialect.name)
            await connection.execute(insert(_claims).values(row).on_conflict_do_nothing())
            query = select(_claims).where(_claims.c.owner == owner, _claims.c.key == key).with_for_update()
            found = (await connection.execute(query)).one()
            if found.fingerprint != fingerprint:
                raise ApiError(
                    422,
                    "idempotency_key_reused",
                    "this idempotency key was used for another request; give each request its own",
                    param="idempotency_key",
                )
            if found.holder != holder and found.response is None:
                if found.expires > moment:
                    raise _in_progress()
                changes = {"holder": holder, "expires": moment + LEASE_SECONDS}
                await connection.execute(
                    update(_claims).where(_claims.c.owner == owner, _claims.c.key == key).values(changes)
                )
            return Claim(owner, key, holder, found.conversation_id, found.response)

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                async with self._writing() as connection:
                    until = await now(connection) + LEASE_SECONDS
                    await connection.execute(update(_claims).where(*claim._rows).values(expires=until))
            except GrpoError as problem:  # if it goes on, the claim lapses, which the answer finds
                logger.warning("an idempotency key was not renewed: %s", problem)

    async def _give_up(self, claim: Claim) -> None:
        async with self._writing() as connection:
            await connection.execute(delete(_claims).where(*claim._rows, _claims.c.response.is_(None)))

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with reached(self._engine):
            async with writing(self._engine) as connection:
                yield connection


def _fingerprint(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _in_progress() -> ApiError:
    return ApiError(
        409,
        "in_progress",
        "a request with this idempotency key is being answered; send it again for its answer",
        retry_after=1.0,
    )


def kept_until() -> float:
    """The Unix time; older answers are no longer kept."""
    return time.time() - KEPT_SECONDS
