"""Single files as plugins: ``./my.py:exact`` in agent.yaml is what the file calls ``exact``.

Only agent.yaml, and the command line, can name a file: never a request to a server.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_host.plugins.failures import cause, pass_interrupts
from grpo_host.plugins.record import Kind, Offer, Plugin
from grpo_sdk.backend import Backend
from grpo_sdk.bundles import ToolBundle
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.environment import Environment
from grpo_sdk.errors import PluginError, did_you_mean
from grpo_sdk.rewards import GroupReward, Reward, reward
from grpo_sdk.strategy import Strategy
from grpo_sdk.trl import TrlEnvironment, is_trl_reward, trl_reward

Factory = Callable[..., Any]

_TOOLS = re.compile(r"\b(Callable|ToolBundle|ToolLike|BaseTool|StructuredTool)\b")
"""What the return annotation of a factory of tools has in it."""


def load_offer(kind: Kind, path: str, name: str, dataset: Callable[[], Factory]) -> Offer:
    """What the file ``path`` calls ``name``, as if a plugin offered it.

    ``dataset`` gives the factory of the environment that poses the tasks of an environment class of TRL.
    Raises ``PluginError`` if the file cannot be run, or holds nothing of the kind under that name.
    """
    factory = _FACTORIES[kind](_find(path, name), dataset)
    if factory is None:
        raise PluginError(f"{path}: {name} is no {kind}. {_WANTED[kind]}")
    return Offer(name, kind, factory, Plugin(Path(path).name, path))


def kind_of(path: str, name: str) -> Kind:
    """What the file ``path`` calls ``name`` is, as far as it can be told: a plain function is a tool.

    Raises ``PluginError`` as ``load_offer`` does.
    """
    from langchain_core.tools import BaseTool

    found = _find(path, name)
    returned = inspect.signature(found).return_annotation if inspect.isroutine(found) else found
    kinds: dict[Kind, tuple[type, ...]] = {
        "reward": (Reward, GroupReward),
        "environment": (Environment,),
        "backend": (Backend,),
        "curriculum": (Curriculum,),
        "strategy": (Strategy,),
        "tool": (BaseTool, ToolBundle, list, tuple),
    }
    for kind, types in kinds.items():
        if isinstance(found, types) or (inspect.isclass(returned) and issubclass(returned, types)):
            return kind
        if isinstance(returned, str) and returned.rpartition(".")[2] in [one.__name__ for one in types]:
            return kind
    if inspect.isclass(found) and hasattr(found, "reset"):
        return "environment"  # of TRL
    if is_trl_reward(found) or (inspect.isroutine(found) and _is_scoring(found)):
        return "reward"
    if not callable(found):
        raise PluginError(f"{path}: {name} is nothing that agent.yaml can name")
    return "tool"


def _find(path: str, name: str) -> Any:
    """What the file ``path`` calls ``name``. Raises ``PluginError`` if it does not, or cannot be run."""
    module = _load(path)
    if not hasattr(module, name):
        public = {known: value for known, value in vars(module).items() if not known.startswith("_")}
        own = [
            known for known, value in public.items() if getattr(value, "__module__", "") == module.__name__
        ]
        hint = did_you_mean(name, list(public)) or f" It has: {', '.join(own) or 'nothing'}"
        raise PluginError(f'{path} has no "{name}".{hint}')
    return getattr(module, name)


def _load(path: str) -> ModuleType:
    """The module of the file, run once a process."""
    name = f"grpo_file_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise PluginError(f"{path}: no such file. A path in agent.yaml is relative to agent.yaml")
    module = importlib.util.module_from_spec(spec)
    folder = str(Path(path).parent)
    if folder not in sys.path:  # what stands beside it can be imported, behind all that is installed
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException as error:
        pass_interrupts(error)
        del sys.modules[name]
        raise PluginError(f"{_place(path, error)}: {cause(error)}") from error
    return module


def _place(path: str, error: BaseException) -> str:
    """``my.py:3``: the last line of the file that was reached."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def _reward(found: Any, _: Any) -> Factory | None:
    if inspect.isclass(found):
        return found if issubclass(found, Reward | GroupReward) else None
    if isinstance(found, Reward | GroupReward):
        return _giving(found)
    if not callable(found):
        return None
    if is_trl_reward(found):
        return trl_reward(found)
    return reward(found) if _is_scoring(found) else found


def _is_scoring(function: Any) -> bool:
    """Whether ``function`` scores a trajectory, and is no factory of what does."""
    parameters = list(inspect.signature(function).parameters)
    return not hasattr(function, "__wrapped__") and parameters[:1] in (["trajectory"], ["trajectories"])


def _giving(found: Any) -> Factory:
    """A factory of ``found`` itself, with its docstring and place, and without options."""

    def factory() -> Any:
        return found

    factory.__doc__ = inspect.getdoc(found)
    factory.__wrapped__ = found  # type: ignore[attr-defined]
    factory.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    return factory


def _tool(found: Any, _: Any) -> Factory | None:
    from langchain_core.tools import BaseTool

    if isinstance(found, BaseTool | ToolBundle | list | tuple):
        return _giving(found)
    if inspect.isclass(found):
        return found if issubclass(found, BaseTool) else None
    if not callable(found):
        return None
    return found if _makes_tools(found) else _giving(found)


def _makes_tools(function: Any) -> bool:
    """Whether ``function`` is a factory, as its annotation says, and no tool itself: none returns one."""
    said = getattr(function, "__annotations__", {}).get("return", "")
    text = said.__name__ if inspect.isclass(said) else str(said)
    return bool(_TOOLS.search(text))


def _environment(found: Any, dataset: Callable[[], Factory]) -> Factory | None:
    if not inspect.isclass(found):
        return found if callable(found) else None
    if issubclass(found, Environment):
        return found
    return _trl_environment(found, dataset()) if hasattr(found, "reset") else None


def _trl_environment(found: type, dataset: Factory) -> Factory:
    def factory(**options: Any) -> TrlEnvironment:
        return TrlEnvironment(found(), dataset(**options))

    factory.__doc__ = found.__doc__
    factory.__signature__ = inspect.signature(dataset)  # type: ignore[attr-defined]
    factory.__wrapped__ = dataset.__init__ if inspect.isclass(dataset) else dataset  # type: ignore[attr-defined]
    return factory


def _backend(found: Any, _: Any) -> Factory | None:
    return found if inspect.isclass(found) and issubclass(found, Backend) else None


def _strategy(found: Any, _: Any) -> Factory | None:
    if isinstance(found, Strategy):
        return _giving(found)
    return found if callable(found) else None


def _curriculum(found: Any, _: Any) -> Factory | None:
    return found if inspect.isclass(found) and issubclass(found, Curriculum) else None


_FACTORIES: dict[Kind, Callable[[Any, Callable[[], Factory]], Factory | None]] = {
    "reward": _reward,
    "tool": _tool,
    "environment": _environment,
    "backend": _backend,
    "strategy": _strategy,
    "curriculum": _curriculum,
}

_WANTED: dict[Kind, str] = {
    "reward": "Name a function of a trajectory, a class of grpo_sdk.Reward or GroupReward, or a reward "
    "function of TRL",
    "tool": "Name a function with type hints and a docstring, a tool of LangChain, a list of these, or a "
    "ToolBundle or a function that is annotated to return one of them",
    "environment": "Name a class of grpo_sdk.Environment, or an environment class of TRL",
    "backend": "Name a class of grpo_sdk.Backend",
    "strategy": "Name a grpo_sdk.Strategy, or a function that makes one",
    "curriculum": "Name a class of grpo_sdk.Curriculum",
}
