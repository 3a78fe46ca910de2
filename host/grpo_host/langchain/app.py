"""An app of LangChain or LangGraph, found by the name that agent.yaml gives it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable

from grpo_sdk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from grpo_host.config.schema import AppUse
    from grpo_host.langchain.chat import ChatGrpo

PARAMETERS = ["model", "tools", "task", "config"]
"""What a function that makes an app may ask for, by name."""
_OF_AN_EPISODE = frozenset({"tools", "task", "config"})


@dataclass(frozen=True)
class App:
    """A Runnable, or a function that makes one."""

    name: str
    made: Runnable[Any, Any] | None
    """None: ``build`` makes one."""
    build: Callable[..., Any] | None = None
    parameters: frozenset[str] = frozenset()
    """What ``build`` asks for."""
    close: Callable[[], None] = lambda: None
    """Ends what all of its episodes use."""
    _kept: list[tuple[Any, Runnable[Any, Any]]] = field(default_factory=list, repr=False)
    """The model that was given last, and what was made of it: the same for all episodes."""

    async def runnable(self, given: Mapping[str, Any]) -> Runnable[Any, Any]:
        """The Runnable, made from those of ``given`` that are asked for. Raises ``ConfigError``.

        It is made anew for each episode only if it asks for what an episode has.
        """
        if self.made is not None:
            return self.made
        if self.build is None:
            raise ValueError("an app is made or can be made")
        if self._kept and self._kept[0][0] is given["model"]:
            return self._kept[0][1]
        made = self.build(**{name: given[name] for name in self.parameters})
        if inspect.isawaitable(made):
            made = await made
        made = _runnable(f"{self.name}()", made)
        if not self.parameters & _OF_AN_EPISODE:
            self._kept[:] = [(given["model"], made)]
        return made


def load_app(use: AppUse, others: str = "refuse") -> App:
    """Import what ``use`` names, with its folder first on the import path. Raises ``ConfigError``.

    ``others`` is "keep" if an app in a process of its own keeps the keys of other models' providers.
    """
    folder = Path(use.folder)
    if use.command is not None:
        return _program(use, folder, others)
    if "#" in use.name:
        file, _, graph = use.name.rpartition("#")
        found = _of_langgraph_json(Path(folder, file), graph)
    else:
        module, separator, attribute = use.name.partition(":")
        if not (module and separator and attribute):
            raise ConfigError(
                f'"{use.name}" names no app. Write module:attribute, such as shop.app:graph, or '
                "langgraph.json#graph"
            )
        found = _attribute(_imported(module, folder), attribute, use.name)
    return _app(use.name, found)


def _program(use: AppUse, folder: Path, others: str) -> App:
    from grpo_host.gateway.server import Gateway
    from grpo_host.langchain.command import CommandApp

    command = list(use.command or ())
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    here = folder / command[0]
    found = str(here.resolve()) if os.sep in command[0] and here.exists() else shutil.which(command[0])
    if found is None or not os.access(found, os.X_OK):
        raise ConfigError(
            f"there is no program {command[0]} in {folder} or on PATH. Install it, or write its path "
            "relative to agent.runnable.folder, such as ./app"
        )
    gateway = Gateway()

    def build(model: ChatGrpo) -> CommandApp:
        return CommandApp([found, *command[1:]], folder, gateway, model.source, others)

    return App(use.label, None, build, frozenset({"model"}), gateway.close)


def _app(name: str, found: Any) -> App:
    if isinstance(found, Runnable):
        return App(name, found)
    compiled = getattr(found, "compile", None)
    if callable(compiled) and hasattr(found, "add_node"):
        return App(name, _runnable(name, compiled()))
    if not callable(found):
        _runnable(name, found)
    try:
        asked = inspect.signature(found).parameters.values()
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"{name} makes no app: its parameters are not known ({problem})") from None
    named = [p for p in asked if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in named:
        if parameter.name in PARAMETERS and parameter.kind is not parameter.POSITIONAL_ONLY:
            continue
        if parameter.default is parameter.empty:
            raise ConfigError(
                f'{name} asks for "{parameter.name}", and can be given {", ".join(PARAMETERS)} by name'
                f"{did_you_mean(parameter.name, PARAMETERS)}. Give it a default, or rename it"
            )
    return App(name, None, found, frozenset(p.name for p in named) & set(PARAMETERS))


def _runnable(name: str, found: Any) -> Runnable[Any, Any]:
    if not isinstance(found, Runnable):
        raise ConfigError(
            f"{name} is {type(found).__name__}, and an app is a Runnable (such as a compiled graph) or a "
            "function that makes one"
        )
    return found


def _imported(module: str, folder: Path) -> ModuleType:
    _put_first(folder)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name is not None and f"{module}.".startswith(f"{problem.name}."):
            raise ConfigError(
                f"there is no module {problem.name} in {folder} or among the installed packages. Set "
                "agent.runnable.folder to the folder that it is in"
            ) from problem
        raise failed(f"importing {module}", problem) from problem
    except (Exception, SystemExit) as problem:
        raise failed(f"importing {module}", problem) from problem
    top = module.partition(".")[0]
    here = [path for path in (folder / top, folder / f"{top}.py") if path.exists()]
    origin = getattr(found, "__file__", None)
    if here and origin and not Path(origin).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{module} is {origin} and not {here[0]}: it has another's name. Rename it")
    return found


def failed(what: str, problem: BaseException) -> ConfigError:
    """What the app's own code raised, as an error of whoever runs it."""
    said = str(problem).rstrip(".")
    return ConfigError(
        f"{what} raises {type(problem).__name__}: {said}. Give the app what it needs, or mend it"
    )


def _put_first(folder: Path) -> None:
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.insert(0, path)


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    found: Any = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            hint = did_you_mean(step, [key for key in vars(found) if not key.startswith("_")])
            raise ConfigError(f"{name}: {module.__name__} has no {step}.{hint}")
        found = getattr(found, step)
    return found


def _of_langgraph_json(path: Path, graph: str) -> Any:
    """The graph of this name in LangGraph's own configuration; its dependencies are paths to import from."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise ConfigError(f"{path} is not JSON: {problem}") from problem
    graphs = said.get("graphs") if isinstance(said, dict) else None
    target = graphs.get(graph) if isinstance(graphs, dict) else None
    if isinstance(target, dict):
        target = target.get("path")
    if not isinstance(target, str) or ":" not in target:
        names = list(graphs) if isinstance(graphs, dict) else []
        raise ConfigError(
            f'{path} has no graph "{graph}".{did_you_mean(graph, names)} It has: {", ".join(names) or "none"}'
        )
    for dependency in said.get("dependencies") or ():
        if isinstance(dependency, str) and dependency.startswith("."):
            _put_first(path.parent / dependency)
    where, _, attribute = target.rpartition(":")
    if where.endswith(".py") or "/" in where:
        module = _module_of_file(path.parent / where)
    else:
        module = _imported(where, path.parent)
    return _attribute(module, attribute, f"{path.name}#{graph}")


def _module_of_file(path: Path) -> ModuleType:
    """The module in the file ``path``, by its name in the folders that are imported from if it has one."""
    path = path.resolve()
    _put_first(path.parent)
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if path.is_relative_to(folder):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            spec = _found(name)
            if spec is not None and spec.origin and Path(spec.origin).resolve() == path:
                return _imported(name, folder)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}, which langgraph.json names")
    raise ConfigError(f"{path} cannot be imported; rename it to a Python identifier")


def _found(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
