"""Runs the server: one process, or several that share a socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from grpo_host.serving.access.keys import KeyStore
from grpo_host.serving.http import unread_limit
from grpo_host.serving.http.logs import logging_config
from grpo_host.serving.settings import ServerSettings
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn import Config

FACTORY = "grpo_host.serving.app:from_environment"
CLOSE_SECONDS = 5
"""For connections that are still open when everything has been drained."""
UNREAD_BYTES = 128 * 1024
"""What the kernel holds of an answer until the client reads on."""


def prepare(settings: ServerSettings) -> None:
    """Migrate the database. Raises ``RunError`` if it is not to be had, and ``ConfigError`` if others
    could reach the server and nobody has a key.
    """
    if asyncio.run(_migrate(settings)) or settings.on_loopback:
        return
    agent = f" --agent {settings.agent_yaml}" if settings.agent_yaml else ""
    raise ConfigError(
        f"refusing to listen on {settings.host}, where others can reach it, without a key. Make one: "
        f"grpo-host keys create --name me --scopes chat,train,admin{agent} "
        "(with the same GRPO_DATABASE_URL or --database), or listen on 127.0.0.1"
    )


async def _migrate(settings: ServerSettings) -> bool:
    """Whether there is a valid key in the migrated database."""
    engine = database.make_engine(settings.database())
    try:
        await migrate(engine)
        return await KeyStore(engine).any_valid()
    finally:
        await engine.dispose()


def serve(settings: ServerSettings, app: ASGIApp | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. ``app`` is used if one process is enough.

    Raises ``GrpoError`` if it must not or cannot listen, or the database is not to be had.
    """
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    prepare(settings)
    listener = _listen(settings)
    try:
        if settings.workers == 1:
            from grpo_host.serving.app import create_app

            config = _config(settings, app or create_app(settings))
            uvicorn.Server(config).run(sockets=[listener])
        else:
            os.environ.update(settings.to_environment())
            config = _config(settings, FACTORY, factory=True, workers=settings.workers)
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            supervisor = Multiprocess(config, sockets=[listener])
            # uvicorn's begins all workers anew, also under nohup.
            supervisor.handle_hup = supervisor.handle_term  # type: ignore[method-assign]
            if ignored:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            supervisor.run()
    finally:
        listener.close()


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(
            address[:2], family=family, backlog=2048, dualstack_ipv6=address[0] == "::"
        )
    except OSError as problem:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {problem.strerror or problem}; choose "
            "another address with --host and --port"
        ) from problem
    listener.set_inheritable(True)
    # Connections inherit both. Else the kernel takes megabytes for each that is not read, and asyncio waits
    # without end for a client that reads nothing.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    if sys.platform == "linux":
        unread = round(unread_limit.SEND_SECONDS * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread)
    return listener


def _config(settings: ServerSettings, app: Any, **options: Any) -> Config:
    import uvicorn

    from grpo_host.serving.http.protocol import BoundedProtocol, BoundedWebSocket

    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws=BoundedWebSocket,
        ws_max_size=settings.max_message_bytes,
        ws_per_message_deflate=False,  # a small message could unfold to a large one
        lifespan="on",
        log_config=logging_config(),
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who calls is told by the key, and an address may be made up
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=65,  # longer than most load balancers', so that they close first
        timeout_graceful_shutdown=CLOSE_SECONDS,
        timeout_worker_healthcheck=60,  # loading a model holds the interpreter for a while
        **options,
    )
