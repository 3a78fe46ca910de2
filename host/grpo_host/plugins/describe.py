"""What a plugin offers, in words: its options, its docstring and where it stands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from grpo_host.plugins.files import kind_of
from grpo_host.plugins.options import options_model, options_schema
from grpo_host.plugins.record import KINDS, Kind, Offer
from grpo_host.plugins.reference import file_reference
from grpo_host.plugins.registry import Registry
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import PluginError, did_you_mean


def find_offers(registry: Registry, name: str, kind: Kind | None = None) -> list[Offer]:
    """What is offered as ``name``: alone, ``distribution:name`` or ``distribution/entry point:name``.

    Of every kind, or of ``kind``. Or what a file calls so, ``./my.py:exact``, relative to the working
    directory. Raises ``PluginError`` if nothing is.
    """
    if file := file_reference(name):
        path = str(expanded(file[0]).absolute())
        located = f"{path}:{file[1]}"
        registry.allow_file(located)
        return [registry.get(kind or kind_of(path, file[1]), located)]
    if name.endswith(".py"):
        raise PluginError(f'"{name}" is a file: say what in it, as in {name}:my_reward')
    owner, _, short = name.rpartition(":")
    found = [
        offer
        for one in KINDS
        for offer in registry.offers(one)
        if kind in (None, one) and offer.name == short and (not owner or offer.plugin.is_called(owner))
    ]
    if not found:
        known = [offered for one in KINDS for offered in registry.names(one)]
        raise PluginError(
            f'nothing is called "{name}".{did_you_mean(short, known)} Run grpo-host plugins to list them.'
        )
    return found


def describe(offer: Offer) -> dict[str, Any]:
    """``offer`` as JSON has it. Options that YAML cannot write are an ``error``."""
    described: dict[str, Any] = {
        "name": offer.name,
        "kind": offer.kind,
        "distribution": offer.plugin.distribution,
        "version": offer.plugin.version,
        "entry_point": offer.plugin.name,
        "place": place(offer),
        "doc": "\n\n".join(docstrings(offer.factory)),
    }
    try:
        return {**described, "options": options_schema(options_model(offer))}
    except PluginError as problem:
        return {**described, "options": None, "error": str(problem)}


def docstrings(factory: Any) -> Iterator[str]:
    """Those of the factory and, if it is a class, of its own ``__init__``."""
    found = [inspect.getdoc(factory)]
    if inspect.isclass(factory):
        first = next((c for c in factory.__mro__ if "__init__" in vars(c)), object)
        found.append(vars(first)["__init__"].__doc__ if first is not object else None)
    yield from (inspect.cleandoc(text) for text in found if text)


def place(offer: Offer) -> str:
    """``file:line`` of what makes it; empty if that has none."""
    try:
        target = inspect.unwrap(offer.factory)
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (TypeError, OSError):
        return ""
