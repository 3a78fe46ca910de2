"""The JSON schema of agent.yaml, for editors: with the names and the options of the installed plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grpo_host.config.schema import AgentConfig, EnvironmentUse, RewardUse
from grpo_host.plugins import Kind, Registry
from grpo_host.plugins.options import options_model, options_schema
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
    names = registry.names(kind)
    whole["properties"]["name"] = {"anyOf": [{"enum": names}, {"type": "string", "minLength": 1}]}
    whole["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}},
            "then": {"properties": {"options": options}},
        }
        for name in names
        if (options := _options(kind, name, registry, definitions)) is not None
    ]
    return {"anyOf": [{"enum": names}, {"type": "string", "minLength": 1}, whole]}


def _options(kind: Kind, name: str, registry: Registry, definitions: Schema) -> Schema | None:
    """The options of ``name``; None if agent.yaml cannot name it alone."""
    try:
        schema: Schema = options_schema(options_model(registry.get(kind, name)))
    except PluginError:
        return None
    definitions.update(schema.pop("$defs", {}))
    return schema
