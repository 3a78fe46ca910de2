"""Which models a server has: names that requests may use, and what they stand for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.trained_model import TrainedModel, trained_model
from grpo_sdk.errors import did_you_mean

if TYPE_CHECKING:
    from grpo_host.plugins.use import ModelConfig
    from grpo_host.serving.settings import ServerSettings

LOOK_SECONDS = 1.0
"""How old a look at the runs directory may be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be asked for."""

    id: str
    model: str
    """What is loaded: an alias, a hub id, a path, a provider's name. Empty of a run that nobody has asked
    for yet: its agent.yaml tells."""
    adapter: Path | None
    instructed: bool
    """It is the agent: its instructions go before the caller's. Not so the plain base model."""
    created: int
    """Unix time."""
    run: Path | None = None
    """The directory of the run that trained it; it says how it was measured."""


class Catalogue:
    """The agent under its own name, each run's adapter as ``agent/run``, and the base model.

    A run appears when its adapter is there, also while the server runs, on the model that it was
    trained on. ``run`` is the one that the agent's own name stands for; ``runs`` False: only the agent
    and its model.
    """

    def __init__(
        self, settings: ServerSettings, model: ModelConfig, *, run: RunDirectory | None, runs: bool
    ) -> None:
        self.default = settings.agent
        self._directory = settings.runs / settings.agent if runs else None
        self._started = int(time.time())
        configured = TrainedModel(model.name, Path(model.adapter) if model.adapter else None)
        served = trained_model(run) if run else configured
        directory = run.path if run else None
        self._agent = Entry(self.default, served.name, served.adapter, True, self._started, directory)
        self._base = Entry(model.name, model.name, None, False, self._started)
        self._looked = float("-inf")
        self._runs: dict[str, Entry] = {}

    def find(self, name: str | None) -> Entry:
        """What ``name`` stands for; None: the agent. Raises ``ApiError`` 404 for any other."""
        if name in (None, self.default):
            return self._agent
        if name == self._base.id:
            return self._base
        found = self._runs.get(name or "") or self._look().get(name or "")
        if found is None:
            hint = did_you_mean(name or "", [entry.id for entry in self])
            raise ApiError(
                404, "model_not_found", f'there is no model "{name}".{hint} GET /v1/models lists them'
            )
        return self._on_its_own_model(found)

    def __iter__(self) -> Iterator[Entry]:
        yield self._agent
        if self._base.id != self._agent.id:
            yield self._base
        yield from self._look().values()

    def _look(self) -> dict[str, Entry]:
        if self._directory is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return self._runs
        self._looked = time.monotonic()
        paths = sorted(self._directory.glob("*/adapter/adapter_config.json"))
        self._runs = {entry.id: entry for entry in map(self._run, paths)}
        return self._runs

    def _on_its_own_model(self, entry: Entry) -> Entry:
        """The run ``entry`` on the model that it was trained on, which it may be the first to ask for."""
        if not entry.model and entry.run is not None:
            own = trained_model(RunDirectory(entry.run)).name
            entry = self._runs[entry.id] = replace(entry, model=own)
        return entry

    def _run(self, path: Path) -> Entry:
        name = f"{self.default}/{path.parent.parent.name}"
        known = self._runs.get(name)
        if known is not None:
            return known
        adapter = path.parent
        return Entry(name, "", adapter, True, int(path.stat().st_mtime), adapter.parent)
