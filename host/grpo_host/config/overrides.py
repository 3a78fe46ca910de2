"""Settings given beside agent.yaml: ``--set rewards[0].weight=0.2``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from grpo_host.utils.validation import Location, say_location
from grpo_sdk.errors import ConfigError

_STEP = re.compile(r"\.?([^.\[\]=\s]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Override:
    """One value that replaces or adds a setting of agent.yaml."""

    location: Location
    value: Any
    label: str
    """What the user wrote, for errors: ``--set rewards[0].weight`` or ``--backend``."""


def parse_override(text: str) -> Override:
    """``a.b[0].c=value``, the value written as in YAML. Raises ``ConfigError``."""
    path, equals, value = text.partition("=")
    label = f"--set {path.strip()}"
    if not equals:
        raise ConfigError(f"{label}: give a value, as in --set training.steps=5")
    return Override(_parse_path(path.strip(), label), _parse_value(value, label), label)


def apply_override(values: dict[str, Any], override: Override) -> None:
    """Put the override into ``values``. Raises ``ConfigError`` if a list is too short."""
    *above, last = override.location
    parent: Any = values
    for depth, step in enumerate(above):
        parent = _enter(parent, step, override, override.location[: depth + 1])
    if isinstance(last, int):
        _require_index(parent, last, override, override.location[:-1])
    parent[last] = override.value


def _enter(parent: Any, step: str | int, override: Override, here: Location) -> Any:
    """The container at ``here``; makes one if there is none."""
    if isinstance(step, int):
        _require_index(parent, step, override, here[:-1])
    child = parent[step] if isinstance(step, int) else parent.get(step)
    wants_list = isinstance(override.location[len(here)], int)
    if child is None:
        child = [] if wants_list else {}
    elif isinstance(child, str) and not wants_list:
        child = {"name": child}  # `backend: vllm` stands for `backend: {name: vllm}`
    elif not isinstance(child, list if wants_list else dict):
        kind = "list" if wants_list else "mapping"
        raise ConfigError(f"{override.label}: {say_location(here)} is no {kind}")
    parent[step] = child
    return child


def _require_index(parent: Any, index: int, override: Override, here: Location) -> None:
    if index >= len(parent):
        raise ConfigError(
            f"{override.label}: {say_location(here)} has {len(parent)} entries, counted from 0. "
            f"Set the whole list to add one"
        )


def _parse_path(path: str, label: str) -> Location:
    location: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or (position == 0 and match[1] is None):
            break
        location.append(int(match[2]) if match[1] is None else match[1])
        position = match.end()
    if not location or position < len(path):
        raise ConfigError(f"{label}: not a key. Write it like rewards[0].weight")
    return tuple(location)


def _parse_value(text: str, label: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise ConfigError(f"{label}: the value is not valid YAML. Put quotes around a text") from None
