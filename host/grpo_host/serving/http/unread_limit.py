"""How long a client may leave an answer unread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Send

SEND_SECONDS = 60.0
"""Then it counts as gone."""


class ClientGoneError(OSError):
    """The client has closed the connection, or reads nothing any more. (ASGI: ``send`` raises OSError.)"""


def within(send: Send) -> Send:
    """``send`` that raises ``ClientGoneError``, also if it takes longer than ``SEND_SECONDS``."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)
        except OSError:  # TimeoutError is one
            raise ClientGoneError from None

    return bounded
