"""Files that a configuration names: relative to agent.yaml; on a command line, to the working directory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.plugins.options import path_options
from grpo_host.plugins.reference import file_reference
from grpo_host.utils.paths import expanded
from grpo_sdk.backend import Capability
from grpo_sdk.errors import ConfigError, GrpoError

if TYPE_CHECKING:
    from grpo_host.plugins import Registry
    from grpo_host.utils.validation import Complaint, Location

SIGNS = ("./", "../", "~", "/")
"""A model's name that begins with one of these is a directory."""


def locate_files(
    values: Mapping[str, Any], registry: Registry | None, base: Callable[[Location], Path]
) -> tuple[dict[str, Any], list[Location], list[Complaint]]:
    """Make the paths in ``values`` absolute; return the values, the locations of paths, and complaints.

    ``base`` gives the directory that a path at a location is relative to. ``output`` is relative to
    the working directory and is not changed, but for ``~``. Without ``registry`` nothing is known of
    the options of plugins, nor of what loads a model.
    """
    from grpo_host.utils.validation import Complaint

    located = copy.deepcopy(dict(values))
    places: list[Location] = []
    complaints: list[Complaint] = []

    def put(location: Location, directory: Path) -> None:
        parent = _at(located, location[:-1])
        text = parent[location[-1]]
        try:
            path = str(Path(directory, expanded(text)))
        except ConfigError as problem:
            complaints.append(Complaint(location, str(problem)))
            return
        if path != text:
            parent[location[-1]] = path
            places.append(location)

    _give_folder(located)
    for _, at in _uses(located):
        location = at if isinstance(_at(located, at), str) else (*at, "name")
        if file_reference(_name(_at(located, at))):
            put(location, base(location))
            if registry is not None:
                registry.allow_file(_at(located, location))
    for location in _named(located, registry, base):
        put(location, base(location))
    if isinstance(located.get("output"), str) and located["output"].startswith("~"):
        put(("output",), Path())
    return located, places, complaints


def _give_folder(values: Any) -> None:
    """Let an app say its folder, so that it is found from anywhere."""
    agent = _at(values, ("agent",))
    if not isinstance(agent, dict):
        return
    if isinstance(agent.get("runnable"), str):
        agent["runnable"] = {"name": agent["runnable"]}
    if isinstance(agent.get("runnable"), dict):
        agent["runnable"].setdefault("folder", ".")


def _named(values: Any, registry: Registry | None, base: Callable[[Location], Path]) -> Iterator[Location]:
    """The locations in ``values`` that name a file or directory to read."""
    yield from _texts(values, ("training", "warm_start", "dialogues"))
    yield from _texts(values, ("training", "accelerate"))
    yield from _texts(values, ("agent", "runnable", "folder"))
    yield from _model_files(values, (), registry, base)
    if registry is None:
        return
    for kind, at in _uses(values):
        name, options = _name(_at(values, at)), _options(_at(values, at))
        try:
            paths = path_options(registry.get(kind, name))
        except GrpoError:
            continue  # a check complains of it
        for option in paths & options.keys():
            yield from _texts(values, (*at, "options", option))
        if kind == "backend" and at != ("backend",):
            yield from _model_files(values, at, registry, base)


def _uses(values: Any) -> Iterator[tuple[Any, Location]]:
    for kind, at in _places(values):
        yield kind, at
        if kind in ("reward", "environment"):  # an option may be a backend: a judge, a simulated user
            for option, value in _options(_at(values, at)).items():
                if isinstance(value, dict) and "model" in value:
                    yield "backend", (*at, "options", option)


def _places(values: Any) -> Iterator[tuple[Any, Location]]:
    yield "environment", ("environment",)
    yield "backend", ("backend",)
    yield "strategy", ("agent", "strategy")
    yield "curriculum", ("training", "curriculum")
    several = (("tool", ("agent", "tools")), ("reward", ("rewards",)), ("environment", ("environments",)))
    for kind, at in several:
        uses = _at(values, at)
        for index in range(len(uses) if isinstance(uses, list) else 0):
            yield kind, (*at, index)


def _model_files(
    values: Any, at: Location, registry: Registry | None, base: Callable[[Location], Path]
) -> Iterator[Location]:
    """Of the model below ``at``: its adapter, and itself if it is a directory that is loaded."""
    yield from _texts(values, (*at, "model", "adapter"))
    backend = at if at else (*at, "backend")
    try:
        can = registry.get("backend", _name(_at(values, backend))).capabilities if registry else ()
    except GrpoError:
        return
    if Capability.LOCAL_WEIGHTS not in can:
        return
    for location in [*_texts(values, (*at, "model", "name")), *_texts(values, (*at, "model"))]:
        name = _at(values, location)
        if name.startswith(SIGNS) or name in (".", "..") or _is_directory_beside(name, base(location)):
            yield location


def _is_directory_beside(name: str, directory: Path) -> bool:
    if not Path(directory, name).is_dir():
        return False
    from grpo_host.models.resolve import list_models

    return name not in {model.alias for model in list_models()}


def _texts(values: Any, location: Location) -> Iterator[Location]:
    """``location``, and each item of a list there, that holds a text."""
    value = _at(values, location)
    if isinstance(value, str) and value:
        yield location
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _texts(values, (*location, index))


def _name(use: Any) -> str:
    name = use.get("name") if isinstance(use, dict) else use
    return name if isinstance(name, str) else ""


def _options(use: Any) -> Mapping[str, Any]:
    options = use.get("options") if isinstance(use, dict) else None
    return options if isinstance(options, dict) else {}


def _at(values: Any, location: Sequence[str | int]) -> Any:
    """The value at ``location``; None if ``values`` has no such location, perhaps by mistake."""
    for step in location:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return None
    return values
