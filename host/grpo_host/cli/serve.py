"""``grpo-host serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.checks.load import load_checked
from grpo_host.cli.command import (
    Command,
    PluginChoice,
    agent_yaml,
    option_override,
    overrides,
)

if TYPE_CHECKING:
    from grpo_host.config.overrides import Override
    from grpo_host.serving.settings import ServerSettings


@click.command(
    "serve",
    cls=Command,
    examples=[
        "grpo-host serve agent.yaml",
        "grpo-host serve agent.yaml --run latest --port 8080",
        "grpo-host serve agent.yaml --host 0.0.0.0 --workers 4",
    ],
)
@agent_yaml
@overrides
@click.option("--run", metavar="[latest|ID|DIRECTORY]", help="Serve a trained run under the agent's name.")
@click.option("--host", metavar="ADDRESS", help="Where to listen [serving.host, 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="[serving.port, 8001]")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    envvar="WORKERS",
    help="Processes; each loads the models that it serves.",
)
@click.pass_obj
def command(
    choice: PluginChoice,
    agent_yaml: Path,
    overrides: tuple[str, ...],
    run: str | None,
    host: str | None,
    port: int | None,
    workers: int,
) -> None:
    """Serve the agent of an agent.yaml: HTTP, WebSocket, and OpenAI's API.

    Only this machine can reach it, unless told otherwise; any other address needs a key (grpo-host
    keys create). Ctrl-C or SIGTERM lets requests end first.
    """
    changes: list[str | Override] = [
        *overrides,
        *option_override("--host", ("serving", "host"), host),
        *option_override("--port", ("serving", "port"), port),
    ]
    registry = choice.load()
    loaded = load_checked(agent_yaml, changes, registry, "chat")
    loaded.closing.close()  # a server scores nothing

    from grpo_host.plugins.observed_run import observed_run
    from grpo_host.serving.app import create_app
    from grpo_host.serving.server import prepare, serve
    from grpo_host.serving.settings import ServerSettings
    from grpo_host.utils.quiet import quiet_libraries

    settings = ServerSettings.of(
        loaded,
        overrides=overrides,
        run=run,
        workers=workers,
        plugins=() if choice.disable else choice.allow,
    )
    prepare(settings)
    quiet_libraries()
    app = create_app(settings, registry, loaded=loaded) if workers == 1 else None
    _say(settings)
    with observed_run(registry, "serve", settings.agent, None):
        serve(settings, app)


def _say(settings: ServerSettings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    click.echo(f"serving {settings.agent} at http://{host}:{settings.port}, documentation at /docs", err=True)
