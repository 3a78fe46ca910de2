"""``grpo-host keys``."""

from __future__ import annotations

import asyncio
import json
import re
import select
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from grpo_host.cli.command import PATH, Command, Group

if TYPE_CHECKING:
    from grpo_host.serving.access.keys import KeyRecord, KeyStore

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _of_server(function: F) -> F:
    """The options that say whose keys."""
    function = click.option(
        "--agent",
        "agent_yaml",
        type=PATH,
        help="The agent.yaml that is served [./agent.yaml].",
    )(function)
    return click.option(
        "--database",
        envvar="GRPO_DATABASE_URL",
        metavar="URL",
        help="The server's database, if it is not the default.",
    )(function)


@click.group(
    "keys",
    cls=Group,
    examples=[
        "grpo-host keys create --name web --owner shop --scopes chat",
        "grpo-host keys list",
        "grpo-host keys replace 1f0c9a5be2d34c7b --overlap 1d",
        "grpo-host keys revoke 1f0c9a5be2d34c7b",
        "grpo-host keys usage",
    ],
)
def command() -> None:
    """Make, list, replace and revoke the keys of a server, and tell what they have used."""


class _Duration(click.ParamType[float]):
    """Such as 90d, 12h or 30m; converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", str(value))
        if found is None:
            self.fail(f'"{value}" is no duration: write 90d, 12h or 30m', param, ctx)
        return float(found[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0}[found[2]]


_expires = click.option(
    "--expires", type=_Duration(), metavar="DURATION", help="Valid for so long: 90d, 12h, 30m [for ever]."
)


@command.command(
    "create",
    cls=Command,
    examples=[
        "grpo-host keys create --name web --scopes chat,train",
        "grpo-host keys create --name web-2 --owner shop --expires 90d",
    ],
)
@click.option(
    "--name", required=True, metavar="NAME", help="What the key is for; the log and the list say it."
)
@click.option(
    "--owner",
    metavar="OWNER",
    help="The person or team that it belongs to: conversations and jobs are theirs, whichever of their keys "
    "made them [the key alone].",
)
@click.option(
    "--scopes", default="chat", show_default=True, metavar="SCOPE,...", help="Of chat, train and admin."
)
@_expires
@click.option(
    "--adopt-anonymous",
    is_flag=True,
    help="Give the owner the conversations and jobs from before there were keys.",
)
@_of_server
def create(
    name: str,
    owner: str | None,
    scopes: str,
    expires: float | None,
    adopt_anonymous: bool,
    agent_yaml: Path | None,
    database: str | None,
) -> None:
    """Make a key and print it.

    It is shown this once; the server keeps only a hash of it. The key is alone on stdout.
    """
    from grpo_host.serving.access.caller import ANONYMOUS, Scope

    try:
        chosen = [Scope(scope.strip()) for scope in scopes.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"scopes are {', '.join(Scope)}, with commas between them", param_hint="--scopes"
        ) from None
    _check_output()
    name = _name(name, "--name")
    if owner is not None:
        owner = _name(owner, "--owner")
        if owner == ANONYMOUS.owner:
            raise click.BadParameter(
                "that is nobody: to take over what was begun before there were keys, name an owner and add "
                "--adopt-anonymous",
                param_hint="--owner",
            )

    async def make(keys: KeyStore) -> tuple[KeyRecord, str, int]:
        found = await keys.anonymous()
        until = None if expires is None else time.time() + expires
        return *await keys.create(
            name, chosen, owner=owner, expires=until, adopt_anonymous=adopt_anonymous
        ), found

    record, token, anonymous = _with_keys(agent_yaml, database, make)
    _tell(record, token, agent_yaml, database)
    if adopt_anonymous:
        click.echo(f'{anonymous} anonymous conversations are of "{record.owner}" now', err=True)
    elif anonymous:
        click.echo(
            f"{anonymous} conversations were begun without a key and belong to nobody: whoever is to have "
            "them needs a key made with --adopt-anonymous",
            err=True,
        )


@command.command("replace", cls=Command, examples=["grpo-host keys replace 1f0c9a5be2d34c7b --overlap 1d"])
@click.argument("key_id")
@click.option(
    "--overlap",
    type=_Duration(),
    default=0.0,
    metavar="DURATION",
    help="The old key is taken for so long [0].",
)
@_expires
@_of_server
def replace(
    key_id: str, overlap: float, expires: float | None, agent_yaml: Path | None, database: str | None
) -> None:
    """Make a key with the owner, name and scopes of another, print it, and end the other.

    Conversations and jobs stay the owner's. A key that expires is replaced by one that is valid for as
    long, unless --expires says otherwise.
    """
    _check_output()
    until = None if expires is None else time.time() + expires
    made = _with_keys(agent_yaml, database, lambda keys: keys.replace(key_id, overlap=overlap, expires=until))
    if made is None:
        raise _no_such_key(key_id)
    _tell(*made, agent_yaml, database)
    ends = f"until {_say_time(time.time() + overlap)}" if overlap else "no more"
    click.echo(f"key {key_id} is taken {ends}", err=True)


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
        ("id", "name", "owner", "scopes", "created", "last used", "expires", "state"),
        [_row(record) for record in records],
        marked={index for index, record in enumerate(records) if record.state != "valid"},
    )


@command.command("revoke", cls=Command, examples=["grpo-host keys revoke 1f0c9a5be2d34c7b"])
@click.argument("key_id")
@_of_server
def revoke(key_id: str, agent_yaml: Path | None, database: str | None) -> None:
    """Take a key back; running servers refuse it within five seconds."""
    if not _with_keys(agent_yaml, database, lambda keys: keys.revoke(key_id)):
        raise _no_such_key(key_id)
    click.echo(f"key {key_id} is revoked", err=True)


@command.command("usage", cls=Command, examples=["grpo-host keys usage", "grpo-host keys usage --days 1"])
@click.option(
    "--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Today included (UTC)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_of_server
def usage(days: int, as_json: bool, agent_yaml: Path | None, database: str | None) -> None:
    """List what each owner has asked for: answers, and the tokens that models read and wrote for them."""
    from grpo_host.serving.access.usage import used

    async def read(keys: KeyStore) -> tuple[dict[str, Any], dict[str, str]]:
        names = {record.id: record.name for record in await keys.list() if record.owner == record.id}
        return await used(keys.engine, days), names

    found, names = _with_keys(agent_yaml, database, read)
    if as_json:
        click.echo(json.dumps([{"owner": owner, **asdict(item)} for owner, item in found.items()], indent=2))
        return
    if not found:
        click.echo(f"Nobody has asked for anything in the last {days} days.")
        return
    from grpo_host.cli.table import print_table

    print_table(
        ("owner", "requests", "input tokens", "output tokens"),
        [
            (
                f"{owner} ({names[owner]})" if owner in names else owner,
                *(f"{count:,}" for count in asdict(item).values()),
            )
            for owner, item in found.items()
        ],
    )


def _name(text: str, option: str) -> str:
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise click.BadParameter("give up to 200 letters", param_hint=option)
    return text.strip()


def _check_output() -> None:
    """Refuse to make a key that nobody could read."""
    if sys.stdout is None or _reader_is_gone():
        raise click.ClickException(
            "standard output is closed, and a key is shown only once: none was made. Write it to a terminal, "
            "a file or a pipe that is read"
        )


def _reader_is_gone() -> bool:
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # no file of the system's, as in a notebook
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _tell(record: KeyRecord, token: str, agent_yaml: Path | None, database: str | None) -> None:
    click.echo(token)
    sys.stdout.flush()
    if problem := getattr(sys.stdout, "problem", None):
        _with_keys(agent_yaml, database, lambda keys: keys.revoke(record.id))
        raise click.ClickException(
            f"the key {record.id} could not be written to standard output ({problem.strerror}) and "
            "is revoked again; make another with grpo-host keys create"
        )
    owner = "itself" if record.owner == record.id else f'"{record.owner}"'
    until = "" if record.expires is None else f", until {_say_time(record.expires)}"
    scopes = ", ".join(record.scopes)
    click.echo(f"key {record.id} of {owner} with {scopes}{until}; it is not shown again", err=True)


def _no_such_key(key_id: str) -> click.ClickException:
    return click.ClickException(f'no valid key has the id "{key_id}"; see grpo-host keys list')


def _row(record: KeyRecord) -> tuple[str, ...]:
    owner = "-" if record.owner == record.id else record.owner
    times = map(_say_time, (record.created, record.last_used, record.expires))
    return (record.id, record.name, owner, ", ".join(record.scopes), *times, record.state)


def _say_time(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _with_keys(agent_yaml: Path | None, database: str | None, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    """The result of ``work`` on the keys of the server that the options name."""
    url = database_of(agent_yaml, database)

    async def run() -> T:
        from grpo_host.serving.access.keys import KeyStore
        from grpo_host.storage.database import make_engine
        from grpo_host.storage.migrations import migrate

        engine = make_engine(url)
        try:
            await migrate(engine)
            return await work(KeyStore(engine))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def database_of(agent_yaml: Path | None, database: str | None) -> str:
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
        "there is no agent.yaml here: name the server with --agent path/to/agent.yaml, or with --database URL"
    )
