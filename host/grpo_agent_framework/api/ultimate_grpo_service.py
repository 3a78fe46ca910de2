"""The server as the guide starts it: ``app`` for uvicorn, or ``python -m`` this module.

It serves the agent of ``GRPO_AGENT_YAML``, or else the embedded model as a customer-service agent.
``grpo-host serve`` is the same server with options of its own.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from grpo_host.serving.settings import ServerSettings

AGENT_YAML = "GRPO_AGENT_YAML"


def settings(**options: Any) -> ServerSettings:
    """What the environment and ``options`` say."""
    from grpo_host.config.load import load_config
    from grpo_host.serving.settings import ENVIRONMENT, ServerSettings

    if os.environ.get(ENVIRONMENT):
        return ServerSettings.from_environment()
    path = os.environ.get(AGENT_YAML)
    loaded = load_config(Path(path), ()) if path else None
    return ServerSettings.of(loaded, **options)


@cache
def _server() -> ASGIApp:
    from grpo_host.serving.app import create_app

    return create_app(settings())


class _App(str):
    """The ASGI app, made at its first call, and at the same time the text by which it is imported.

    ``uvicorn.run(app, workers=4)`` takes nothing but such a text: each worker imports the app anew.
    """

    __slots__ = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _server()(scope, receive, send)


app = _App("grpo_agent_framework.api.ultimate_grpo_service:app")


def main() -> None:
    """Serve; options come from the command line, or from ``HOST``, ``PORT`` and ``WORKERS``."""
    import click

    from grpo_host.serving.server import serve
    from grpo_host.utils.quiet import quiet_libraries
    from grpo_sdk.errors import GrpoError

    @click.command(help=__doc__)
    @click.option("--host", envvar="HOST", default="127.0.0.1", show_default=True, help="Where to listen.")
    @click.option("--port", envvar="PORT", type=int, default=8001, show_default=True)
    @click.option("--workers", envvar="WORKERS", type=click.IntRange(1), default=1, show_default=True)
    def command(host: str, port: int, workers: int) -> None:
        quiet_libraries()
        try:
            serve(settings(host=host, port=port, workers=workers))
        except GrpoError as problem:
            raise click.ClickException(str(problem)) from problem

    command(prog_name="python -m grpo_agent_framework.api.ultimate_grpo_service")


if __name__ == "__main__":
    main()
