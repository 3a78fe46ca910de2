"""The plugins: which exist, which offer a name, and which observe episodes and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import pluggy

from grpo_host.plugins.failures import cause
from grpo_host.plugins.inspection import (
    OBSERVER_HOOKS,
    call_registration_hook,
    check_hook_api,
    check_hook_names,
)
from grpo_host.plugins.observing import tell
from grpo_host.plugins.record import LOCAL, Kind, Offer, Plugin, canonical
from grpo_host.plugins.reference import file_reference
from grpo_sdk.errors import PluginError, did_you_mean
from grpo_sdk.hooks import REGISTRATION_HOOKS, GrpoHooks

if TYPE_CHECKING:
    from grpo_sdk.trajectory import Trajectory


class Registry:
    """Plugins by name. Broken ones are kept too, so that errors can point at them."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("grpo")
        self._manager.add_hookspecs(GrpoHooks)
        self._plugins: dict[str, Plugin] = {}
        self._offers: list[Offer] = []
        self._observers: dict[str, list[tuple[Plugin, Callable[..., Any]]]] = {}
        self._files: dict[str, dict[Kind, Offer]] = {}
        """What may be loaded from files, and what has been: by ``path:name``."""

    @property
    def plugins(self) -> list[Plugin]:
        """Working and broken plugins, in the order of registration."""
        return list(self._plugins.values())

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that are left out, each with its ``error``."""
        return [plugin for plugin in self._plugins.values() if plugin.error is not None]

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._plugins

    def register(
        self,
        plugin: object,
        name: str,
        *,
        distribution: str = LOCAL,
        version: str = "",
        seconds: float = 0.0,
    ) -> Plugin:
        """Add a module or object with hooks, completely or not at all.

        Raises ``PluginError`` if it breaks the contract or its name is taken.
        """
        record = Plugin(name, distribution, version)
        if record.identifier in self._plugins:
            raise PluginError(f"{record}: a plugin of this name is registered already")
        try:
            offers = self._admit(plugin, record.identifier)
        except PluginError as error:
            self._manager.unregister(name=record.identifier)
            raise PluginError(f"{record}: {error}") from error
        record = Plugin(
            name,
            distribution,
            version,
            offers={kind: tuple(found) for kind, found in offers.items()},
            observes=tuple(h for h in OBSERVER_HOOKS if self._implementation(h, record.identifier)),
            seconds=seconds,
        )
        self._plugins[record.identifier] = record
        self._offers += [
            Offer(offered, kind, factory, record)
            for kind, found in offers.items()
            for offered, factory in found.items()
        ]
        self._observers = {hook: list(self._observers_of(hook)) for hook in OBSERVER_HOOKS}
        return record

    def record_broken(self, plugin: Plugin) -> None:
        """Remember a plugin that could not be added; its ``error`` says why."""
        self._plugins[plugin.identifier] = plugin

    def offers(self, kind: Kind) -> list[Offer]:
        """Everything of ``kind`` that plugins offer, including names that collide."""
        return [offer for offer in self._offers if offer.kind == kind]

    def names(self, kind: Kind) -> list[str]:
        """The names of ``kind``, sorted, each once."""
        return sorted({offer.name for offer in self._offers if offer.kind == kind})

    def allow_file(self, name: str) -> None:
        """Let ``get`` load ``path of a file:name in it``. For what agent.yaml names alone."""
        self._files.setdefault(name, {})

    def _from_file(self, kind: Kind, name: str) -> Offer:
        from grpo_host.plugins.files import load_offer

        loaded, reference = self._files[name], file_reference(name)
        if kind not in loaded and reference:
            loaded[kind] = load_offer(kind, *reference, lambda: self.get("environment", "dataset").factory)
        return loaded[kind]

    def get(self, kind: Kind, name: str) -> Offer:
        """Who offers ``name``: a name, ``distribution:name`` or ``distribution/entry point:name``.

        A built-in one keeps its name, whatever else is installed: others of that name need the longer form.
        Or, if it is allowed, ``path of a file:name in it``. Raises ``PluginError`` if no plugin or more
        than one does; it says what to write instead.
        """
        if name in self._files:
            return self._from_file(kind, name)
        if name.endswith(".py"):
            raise PluginError(f'"{name}" is a file: say what in it is the {kind}, as in {name}:my_{kind}')
        chosen, colon, short = name.rpartition(":")
        if colon and not any(plugin.is_called(chosen) for plugin in self._plugins.values()):
            known = sorted({plugin.distribution for plugin in self._plugins.values()})
            raise PluginError(
                f'no plugin "{chosen}" for the {kind} "{name}".{did_you_mean(chosen, known)} '
                f"Run grpo-host plugins to list them."
            )
        found = [
            offer
            for offer in self._offers
            if offer.kind == kind and offer.name == short and (not colon or offer.plugin.is_called(chosen))
        ]
        if not found:
            raise PluginError(self._unknown(kind, short, chosen))
        if len(found) > 1 and not colon:
            found = [offer for offer in found if offer.plugin.built_in] or found
        if len(found) > 1:
            raise PluginError(self._ambiguous(kind, short, found))
        return found[0]

    def qualified(self, offer: Offer) -> str:
        """What names ``offer`` whatever is installed later: for one that is built in, its name alone.

        For what a program registered itself, too: nobody could install it.
        """
        if offer.plugin.built_in or offer.plugin.distribution == LOCAL:
            return offer.name
        of = canonical(offer.plugin.distribution)
        alike = [o for o in self.offers(offer.kind) if o.name == offer.name]
        alone = sum(canonical(other.plugin.distribution) == of for other in alike) == 1
        return f"{offer.plugin.distribution}:{offer.name}" if alone else offer.identifier

    def observers(self, hook: str) -> list[tuple[Plugin, Callable[[dict[str, Any]], Any]]]:
        """Who implements an observer hook, and how it is called: with the hook's arguments by name."""
        return list(self._observers.get(hook, ()))

    def notify_episode(self, trajectory: Trajectory) -> None:
        """Tell the plugins that an episode ended. What they raise is logged."""
        self._notify("grpo_episode_finished", {"trajectory": trajectory})

    def notify_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Tell the plugins that a training step ended. What they raise is logged."""
        self._notify("grpo_step_finished", {"step": step, "metrics": metrics})

    def _notify(self, hook: str, arguments: dict[str, Any]) -> None:
        for plugin, call in self._observers.get(hook, ()):
            tell(plugin, hook, call, arguments)

    def _admit(self, plugin: object, identifier: str) -> dict[Kind, dict[str, Callable[..., Any]]]:
        """Register with pluggy and ask for the offers, by kind."""
        check_hook_api(plugin)
        check_hook_names(self._manager, plugin)
        try:
            self._manager.register(plugin, name=identifier)
        except pluggy.PluginValidationError as error:
            raise PluginError(cause(error)) from error
        except ValueError as error:
            raise PluginError("the same object is registered under another name") from error
        offers: dict[Kind, dict[str, Callable[..., Any]]] = {}
        for hook, kind in REGISTRATION_HOOKS.items():
            implementation = self._implementation(hook, identifier)
            if implementation is not None:
                offers[cast(Kind, kind)] = call_registration_hook(hook, implementation.function)
        return offers

    def _implementation(self, hook: str, identifier: str) -> pluggy.HookImpl | None:
        caller = getattr(self._manager.hook, hook)
        return next((i for i in caller.get_hookimpls() if i.plugin_name == identifier), None)

    def _observers_of(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., Any]]]:
        # Not through pluggy's own call: there, one plugin's exception would silence the others.
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            yield self._plugins[implementation.plugin_name], _with_arguments(implementation)

    def _unknown(self, kind: Kind, name: str, chosen: str) -> str:
        broken = [p for p in self.broken if not chosen or p.is_called(chosen)]
        others = sorted({offer.kind for offer in self._offers if offer.name == name})
        hint = did_you_mean(name, self.names(kind))
        if not hint and others:
            hint = f" There is a {' and a '.join(others)} of this name."
        text = f'no {kind} "{name}"{f" in {chosen}" if chosen else ""}.{hint} '
        text += "Run grpo-host plugins to list them."
        if broken:
            listed = "; ".join(f"{plugin}: {plugin.error}" for plugin in broken)
            text += f" Broken plugins, which may offer it: {listed}"
        return text

    def _ambiguous(self, kind: Kind, name: str, found: list[Offer]) -> str:
        choices = " or ".join(f'"{self.qualified(offer)}"' for offer in found)
        return (
            f'{len(found)} plugins offer the {kind} "{name}": '
            f"{' and '.join(str(offer.plugin) for offer in found)}. "
            f"Write {choices} to choose."
        )


def _with_arguments(implementation: pluggy.HookImpl) -> Callable[[dict[str, Any]], Any]:
    function, names = implementation.function, implementation.argnames

    def call(arguments: dict[str, Any]) -> Any:
        return function(*[arguments[name] for name in names])

    return call
