"""The JSON schema of agent.yaml, for editors: with the names and the options of the installed plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grpo_host.config.schema import AgentConfig, EnvironmentUse, RewardUse
from grpo_host.plugins import Kind, Offer, Registry
from grpo_host.plugins.options import options_model, options_schema
from grpo_host.plugins.record import canonical
from grpo_host.plugins.use import Named, PluginUse
from grpo_sdk.errors import PluginError

Schema = dict[str, Any]


def agent_schema(registry: Registry) -> Schema:
    """JSON schema (draft 2020-12) of agent.yaml. A name that no plugin offers is left to ``check``."""
    schema: Schema = AgentConfig.model_json_schema()
    definitions: Schema = schema["$defs"]
    schema["properties"]["environment"] = _use("environment", PluginUse, registry, definitions)
    schema["properties"]["environments"]["items"] = _use("environment", EnvironmentUse, registry, definitions)
    schema["properties"]["backend"] = _use("backend", PluginUse, registry, definitions)
    schema["properties"]["rewards"]["items"] = _use("reward", RewardUse, registry, definitions)
    agent = definitions["AgentSection"]["properties"]
    agent["tools"]["items"] = _use("tool", PluginUse, registry, definitions)
    agent["strategy"] = {"anyOf": [_use("strategy", PluginUse, registry, definitions), {"type": "null"}]}
    definitions["TrainingConfig"]["properties"]["curriculum"] = {
        "anyOf": [_use("curriculum", PluginUse, registry, definitions), {"type": "null"}]
    }
    for name in {section.__name__ for section in _by_name(Named)} & definitions.keys():
        definitions[name] = {"anyOf": [{"type": "string", "minLength": 1}, definitions[name]]}
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "agent.yaml"}


def _by_name(section: type[Named]) -> Iterator[type[Named]]:
    """The sections that may be given by their name alone."""
    for one in section.__subclasses__():
        yield one
        yield from _by_name(one)


def _use(kind: Kind, section: type[PluginUse], registry: Registry, definitions: Schema) -> Schema:
    """What names a ``kind``: by its name alone, or with options that its name tells."""
    whole = section.model_json_schema()
    definitions.update(whole.pop("$defs", {}))
    offers = {offer.identifier: offer for offer in registry.offers(kind)}
    names = {identifier: _names(offer, registry) for identifier, offer in offers.items()}
    suggested = sorted({name for several in names.values() for name in several[:1]})
    whole["properties"]["name"] = {"anyOf": [{"enum": suggested}, {"type": "string", "minLength": 1}]}
    whole["allOf"] = [
        {
            "if": {"properties": {"name": {"enum": names[identifier]}}},
            "then": {"properties": {"options": options}},
        }
        for identifier, offer in offers.items()
        if (options := _options(offer, definitions)) is not None
    ]
    return {"anyOf": [{"enum": suggested}, {"type": "string", "minLength": 1}, whole]}


def _names(offer: Offer, registry: Registry) -> list[str]:
    """All that agent.yaml may call ``offer``, the shortest first."""
    plugin = offer.plugin
    owners = dict.fromkeys([plugin.distribution, canonical(plugin.distribution), plugin.name])
    possible = [offer.name, *(f"{owner}:{offer.name}" for owner in owners), offer.identifier]
    return [name for name in possible if _means(offer, name, registry)]


def _means(offer: Offer, name: str, registry: Registry) -> bool:
    try:
        return registry.get(offer.kind, name) is offer
    except PluginError:
        return False


def _options(offer: Offer, definitions: Schema) -> Schema | None:
    """The options of ``offer``; None if agent.yaml cannot write them."""
    try:
        schema: Schema = options_schema(options_model(offer))
    except PluginError:
        return None
    definitions.update(schema.pop("$defs", {}))
    return schema
