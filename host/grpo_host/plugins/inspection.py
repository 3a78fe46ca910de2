"""Check that an object is a plugin, and read what it offers. Raises ``PluginError`` if it is not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pluggy

from grpo_host.plugins.failures import described, pass_interrupts
from grpo_sdk.backend import Backend
from grpo_sdk.errors import PluginError, did_you_mean
from grpo_sdk.hooks import HOOK_API, REGISTRATION_HOOKS, GrpoHooks

HOOKS = tuple(name for name in vars(GrpoHooks) if name.startswith("grpo_"))
OBSERVER_HOOKS = tuple(name for name in HOOKS if name not in REGISTRATION_HOOKS)


def check_hook_api(plugin: object) -> None:
    """Refuse a plugin whose ``GRPO_HOOK_API`` does not hold this host's version."""
    stated = getattr(plugin, "GRPO_HOOK_API", None)
    if stated is None:
        return
    if isinstance(stated, int):
        stated = (stated, stated)
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(isinstance(v, int) for v in stated)):
        raise PluginError(f"GRPO_HOOK_API is {stated!r}, not a pair of numbers (lowest, highest)")
    lowest, highest = stated
    if not lowest <= HOOK_API <= highest:
        wants = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
        raise PluginError(
            f"it is written for hook API {wants}, and this host has {HOOK_API}. "
            f"Install a version of it for hook API {HOOK_API}, or another grpo-agent-framework"
        )


def check_hook_names(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse what pluggy would silently ignore: misspelt, unmarked and missing hooks."""
    found = False
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            unmarked = inspect.getattr_static(plugin, attribute, None)
            if attribute in HOOKS and inspect.isroutine(unmarked):
                raise PluginError(f"{attribute} is not marked with @grpo_sdk.hookimpl")
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            hint = did_you_mean(hook, list(HOOKS)) or f" The hooks are: {', '.join(HOOKS)}"
            raise PluginError(f"there is no hook {hook}.{hint}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{hook} is a hook wrapper, and plugins cannot wrap others' hooks")
        if inspect.iscoroutinefunction(getattr(plugin, attribute)):
            raise PluginError(f"{hook} is async; hooks are plain functions")
        found = True
    if not found:
        raise PluginError(f"it implements no hook. The hooks are: {', '.join(HOOKS)}")


def call_registration_hook(hook: str, function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Call ``function`` for its offers. Raises ``PluginError`` if it raises or returns anything else."""
    try:
        returned = function()
    except BaseException as error:
        pass_interrupts(error)
        raise PluginError(f"{hook} raised {described(error)}") from error
    if not isinstance(returned, Mapping):
        raise PluginError(f"{hook} returned {type(returned).__name__}, not a mapping of names to factories")
    offers = dict(returned)
    for name, factory in offers.items():
        _check_offer(hook, name, factory)
    return offers


def _check_offer(hook: str, name: Any, factory: Any) -> None:
    if not isinstance(name, str) or not name or any(c.isspace() or c in ":/" for c in name):
        raise PluginError(
            f"{hook} offers the name {name!r}; a name is text without spaces, colons and slashes"
        )
    if not callable(factory):
        raise PluginError(
            f'{hook} offers "{name}" as {type(factory).__name__}, '
            f"not a factory; write lambda: … where it is made already"
        )
    if hook == "grpo_backends":
        if not (isinstance(factory, type) and issubclass(factory, Backend)):
            raise PluginError(f'{hook} offers "{name}", which is not a subclass of grpo_sdk.Backend')
        if not isinstance(getattr(factory, "capabilities", None), frozenset):
            raise PluginError(
                f'{hook} offers "{name}", whose class {factory.__name__} '
                f"states no capabilities (a frozenset of grpo_sdk.Capability)"
            )
