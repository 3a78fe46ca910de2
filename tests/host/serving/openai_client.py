"""OpenAI's client of an app in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[Any]:
    """A client of ``app`` while it runs; ``http`` is what it asks with."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            client: Any = openai.AsyncOpenAI(
                base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0
            )
            client.http = http
            yield client
