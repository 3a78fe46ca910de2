"""Serves the viewer to this machine alone."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from grpo_sdk.errors import ConfigError

ADDRESS = "127.0.0.1"


def view(
    places: Sequence[Path],
    *,
    port: int,
    open_browser: bool,
    say: Callable[[str], None],
    trace_url: str | None = None,
) -> None:
    """Serve until Ctrl-C. Raises ``ConfigError`` if ``port`` is taken; 0 takes a free one."""
    import uvicorn

    from grpo_host.viewer.app import create_app

    token = secrets.token_urlsafe(24)
    listener = _listen(port)
    try:
        address = f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={token}"
        config = uvicorn.Config(
            create_app(places, token, trace_url),
            log_level="warning",
            access_log=False,  # the first request has the token
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        say(address)
        if open_browser:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as problem:
        raise ConfigError(
            f"cannot listen on {ADDRESS}:{port}: {problem.strerror or problem}; choose another --port"
        ) from problem
