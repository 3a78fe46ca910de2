"""How a server runs: from agent.yaml's ``serving``, the command line, and the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, SecretStr

from grpo_host.config.schema import ServingConfig
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig

ENVIRONMENT = "GRPO_SERVER_SETTINGS"
"""Carries the settings to the processes of ``grpo-host serve --workers``."""
DATABASE_URL = "GRPO_DATABASE_URL"
STATE_DIRECTORY = "GRPO_STATE_DIR"

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerSettings(ServingConfig):
    """Everything of ``serving``, and what is served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str = "agent"
    """The agent's name."""
    agent_yaml: Path | None = None
    overrides: tuple[str, ...] = ()
    """``--set`` of the command line."""
    run: str | None = None
    """The trained run that is served under the agent's name: ``latest``, an id or a path."""
    runs: Path = Path("runs")
    """Parent of the run directories, agent.yaml's ``output``."""
    state: Path | None = None
    """Directory of the database and of what jobs leave; None: beside the runs."""
    database_url: SecretStr | None = None
    """None: a SQLite file in the state directory."""
    plugins: tuple[str, ...] | None = None
    """Names of the plugins to load; None: all."""
    workers: int = Field(1, ge=1)

    @classmethod
    def of(cls, loaded: LoadedConfig | None = None, **options: Any) -> ServerSettings:
        """What agent.yaml says, ``GRPO_DATABASE_URL``, ``GRPO_STATE_DIR``, and ``options``: later wins.

        Options that are None count as not given.
        """
        values: dict[str, Any] = {}
        if loaded is not None:
            config = loaded.config
            values |= config.serving.model_dump()
            values |= {"agent": config.name, "agent_yaml": loaded.path, "runs": Path(config.output)}
        for variable, name in ((DATABASE_URL, "database_url"), (STATE_DIRECTORY, "state")):
            if os.environ.get(variable):
                values[name] = os.environ[variable]
        values |= {name: value for name, value in options.items() if value is not None}
        return cls.model_validate(values)

    @property
    def state_directory(self) -> Path:
        return expanded(self.state) if self.state else self.runs / self.agent / "serving"

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        return self.host in LOOPBACK

    def database(self) -> str:
        """The URL, password and all; for SQLite its directory is made, readable by its owner only."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        directory = self.state_directory.absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as problem:
            raise ConfigError(
                f"cannot make the server's state directory {directory}: {problem.strerror or problem}; set "
                f"{STATE_DIRECTORY} to a directory that can be written, or {DATABASE_URL}"
            ) from problem
        return f"sqlite+aiosqlite:///{directory / 'server.db'}"

    def to_environment(self) -> dict[str, str]:
        """The variables that ``from_environment`` reads in another process."""
        variables = {ENVIRONMENT: self.model_dump_json(exclude={"database_url"})}
        if self.database_url is not None:
            variables[DATABASE_URL] = self.database_url.get_secret_value()
        return variables

    @classmethod
    def from_environment(cls) -> ServerSettings:
        """The settings that ``to_environment`` wrote; without them, the defaults."""
        import orjson

        return cls.of(**orjson.loads(os.environ.get(ENVIRONMENT, "{}")))
