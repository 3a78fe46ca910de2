"""``grpo-host keys``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from grpo_host.cli.command import Command, ExamplesFirst

if TYPE_CHECKING:
    from grpo_host.serving.keys import KeyRecord, KeyStore

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Group(ExamplesFirst, click.Group):
    pass


def _of_server(function: F) -> F:
    """The options that say whose keys."""
    function = click.option(
        "--agent",
        "agent_yaml",
        type=click.Path(path_type=Path),
        help="The agent.yaml that is served [./agent.yaml].",
    )(function)
    return click.option(
        "--database",
        envvar="GRPO_DATABASE_URL",
        metavar="URL",
        help="The server's database, where it is not the default.",
    )(function)


@click.group(
    "keys",
    cls=_Group,
    examples=[
        "grpo-host keys create --name web --scopes chat",
        "grpo-host keys list",
        "grpo-host keys revoke 1f0c9a5be2d34c7b",
    ],
)
def command() -> None:
    """Make, list and revoke the keys of a server."""


@command.command("create", cls=Command, examples=["grpo-host keys create --name web --scopes chat,train"])
@click.option("--name", required=True, metavar="NAME", help="Whose it is, for the list.")
@click.option(
    "--scopes", default="chat", show_default=True, metavar="SCOPE,...", help="Of chat, train and admin."
)
@_of_server
def create(name: str, scopes: str, agent_yaml: Path | None, database: str | None) -> None:
    """Make a key and print it.

    It is shown this once; the server keeps only a hash of it. The key is alone on stdout.
    """
    from grpo_host.serving.endpoint import Scope

    try:
        chosen = [Scope(scope.strip()) for scope in scopes.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"scopes are {', '.join(Scope)}, with commas between them", param_hint="--scopes"
        ) from None
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise click.BadParameter("give up to 200 letters", param_hint="--name")
    record, token = _with_keys(agent_yaml, database, lambda keys: keys.create(name.strip(), chosen))
    click.echo(token)
    click.echo(f"key {record.id} with {', '.join(record.scopes)}; it is not shown again", err=True)


@command.command("list", cls=Command, examples=["grpo-host keys list", "grpo-host keys list --json"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_of_server
def list_(agent_yaml: Path | None, database: str | None, as_json: bool) -> None:
    """List the keys, revoked ones too."""
    records = _with_keys(agent_yaml, database, lambda keys: keys.list())
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=2))
        return
    if not records:
        click.echo("There are no keys. Make one with: grpo-host keys create --name NAME --scopes chat")
        return
    from grpo_host.cli.table import print_table

    print_table(
        ("id", "name", "scopes", "created", "last used", "revoked"),
        [_row(record) for record in records],
        marked={index for index, record in enumerate(records) if record.revoked is not None},
    )


@command.command("revoke", cls=Command, examples=["grpo-host keys revoke 1f0c9a5be2d34c7b"])
@click.argument("key_id")
@_of_server
def revoke(key_id: str, agent_yaml: Path | None, database: str | None) -> None:
    """Take a key back; running servers refuse it within five seconds."""
    if not _with_keys(agent_yaml, database, lambda keys: keys.revoke(key_id)):
        raise click.ClickException(f'no valid key has the id "{key_id}"; see grpo-host keys list')
    click.echo(f"key {key_id} is revoked", err=True)


def _row(record: KeyRecord) -> tuple[str, ...]:
    times = (record.created, record.last_used, record.revoked)
    return (record.id, record.name, ", ".join(record.scopes), *map(_say_time, times))


def _say_time(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _with_keys(agent_yaml: Path | None, database: str | None, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    """The result of ``work`` on the keys of the server that the options name."""
    url = _database(agent_yaml, database)

    async def run() -> T:
        from grpo_host import storage
        from grpo_host.serving.keys import KeyStore

        engine = storage.make_engine(url)
        try:
            await storage.migrate(engine)
            return await work(KeyStore(engine))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _database(agent_yaml: Path | None, database: str | None) -> str:
    import os

    from grpo_host.serving.settings import STATE_DIRECTORY, ServerSettings

    if database is not None:
        return database
    if agent_yaml is None and Path("agent.yaml").is_file():
        agent_yaml = Path("agent.yaml")
    if agent_yaml is not None:
        from grpo_host.config.load import load_config

        return ServerSettings.of(load_config(agent_yaml)).database()
    if os.environ.get(STATE_DIRECTORY):
        return ServerSettings.of().database()
    raise click.UsageError(
        "there is no agent.yaml here: say whose keys with --agent path/to/agent.yaml, or with --database URL"
    )
