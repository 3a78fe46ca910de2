"""Read a file and overrides into a typed configuration that knows where each setting comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from grpo_host.config.files import locate_files
from grpo_host.config.overrides import Override, apply_override, parse_override
from grpo_host.config.problems import InvalidConfigError, Problem
from grpo_host.config.references import resolve_references
from grpo_host.config.schema import AgentConfig
from grpo_host.config.source import line_of, read_source
from grpo_host.plugins.reference import file_reference
from grpo_host.utils.paths import expanded
from grpo_host.utils.validation import Complaint, Location, complaints_of, say_location, section_in
from grpo_sdk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@dataclass(frozen=True)
class Origin:
    """Where settings come from: lines of a file, and overrides."""

    path: Path
    lines: Mapping[Location, int]
    overrides: Sequence[Override] = ()

    def override_of(self, location: Location) -> Override | None:
        """The override that set ``location`` or something above it; the last one wins.

        If the file has no ``location``, one that set something below it made it.
        """
        for override in reversed(self.overrides):
            if location[: len(override.location)] == override.location:
                return override
            made = location not in self.lines and location
            if made and override.location[: len(location)] == location:
                return override
        return None

    def where(self, location: Location) -> str:
        """``agent.yaml:14: rewards[0].name``, or ``--set rewards[0].name``."""
        override = self.override_of(location)
        if override is None:
            place = f"{self.path}:{line_of(location, self.lines)}"
        elif location == override.location:
            return override.label
        else:
            place = override.label
        return f"{place}: {say_location(location)}" if location else place

    def base(self, location: Location) -> Path:
        """The directory that a path at ``location`` is relative to."""
        return Path.cwd() if self.override_of(location) else self.path.absolute().parent

    def problem(self, complaint: Complaint) -> Problem:
        """Turn ``complaint`` into a problem that says its place in words."""
        return Problem(self.where(complaint.location), complaint.message)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, with its origin."""

    path: Path
    config: AgentConfig = field(repr=False)  # it may hold secrets from the environment
    origin: Origin = field(repr=False)
    references: Mapping[Location, str] = field(repr=False)
    """Location → the text with ``${NAME}`` in it, as it was written."""

    def where(self, *location: str | int) -> str:
        """The place of a setting in words, for an error: ``where("rewards", 0, "name")``."""
        return self.origin.where(location)


def load_config(
    path: str | Path, overrides: Iterable[str | Override] = (), registry: Registry | None = None
) -> LoadedConfig:
    """Read agent.yaml; paths of files that it names become absolute.

    Without ``registry`` those among the options of plugins stay as they are. Raises
    ``InvalidConfigError``, or ``ConfigError`` if it is not YAML.
    """
    path = expanded(path)
    values, lines = read_source(path)
    return _loaded(path, values, lines, overrides, registry)


def load_rewards(path: str | Path, registry: Registry) -> LoadedConfig:
    """Read ``rewards:`` of a file, which may be an agent.yaml; all else in it is left out.

    ``path`` may also be one reward of a single file, ``./my.py:exact``. Raises ``InvalidConfigError``, or
    ``ConfigError`` if it is not YAML or has no rewards.
    """
    path = expanded(path)
    alone = file_reference(str(path)) is not None
    values, lines = ({"rewards": [path.name]}, {}) if alone else read_source(path)
    if "rewards" not in values:
        raise ConfigError(f"{path}: it has no rewards. Begin with rewards: [task_success]")
    unused = {"name": "score", "model": "none", "backend": "scripted", "environment": "none"}
    return _loaded(path, {**unused, "rewards": values["rewards"]}, lines, (), registry)


def _loaded(
    path: Path,
    values: dict[str, Any],
    lines: Mapping[Location, int],
    overrides: Iterable[str | Override],
    registry: Registry | None,
) -> LoadedConfig:
    # An override may reach into the default backend: --set backend.options.seed=1.
    values.setdefault("backend", AgentConfig.model_fields["backend"].default.name)
    applied = [o if isinstance(o, Override) else parse_override(o) for o in overrides]
    for override in applied:
        apply_override(values, override)
    origin = Origin(path, lines, applied)
    values, references, complaints = resolve_references(values)
    values, located, unlocated = locate_files(values, registry, origin.base)
    complaints += unlocated
    for location in located:  # a reference could mean another file elsewhere
        references.pop(location, None)
    try:
        config = AgentConfig.model_validate(values)
    except ValidationError as problem:
        missing = {complaint.location for complaint in complaints}
        complaints += [c for c in _complaints(problem, values) if c.location not in missing]
    if complaints:
        complaints.sort(key=lambda c: line_of(c.location, lines))
        raise InvalidConfigError([origin.problem(complaint) for complaint in complaints])
    return LoadedConfig(path, config, origin, references)


def _complaints(problem: ValidationError, values: Any) -> list[Complaint]:
    return [
        Complaint(c.location, _elsewhere(c.message, str(c.location[-1])) or c.message)
        for c in complaints_of(problem, values, AgentConfig)
    ]


def _elsewhere(message: str, key: str) -> str:
    """A better message if an unknown key is one of another section, or looks like one."""
    if not message.startswith("unknown key") or "Did you mean" in message:
        return ""
    places: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("", AgentConfig)]
    while pending:
        prefix, model = pending.pop(0)  # the sections nearest to the top first
        for attribute, info in model.model_fields.items():
            name = info.alias or attribute
            places.setdefault(name, f"{prefix}{name}")
            below = section_in(info.annotation)
            if below is not None and below.__name__ not in ("PluginUse", "RewardUse"):
                pending.append((f"{prefix}{name}.", below))
    if key in places:
        return f'unknown key "{key}" here. Did you mean "{places[key]}"?'
    hint = did_you_mean(key, list(places))
    if not hint:
        return ""
    near = hint.split('"')[1]
    return f'unknown key "{key}". Did you mean "{places[near]}"?'
