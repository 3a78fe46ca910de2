"""The keys of agent.yaml, from the pydantic models that read it."""

from __future__ import annotations

from typing import Any

from json_schema import definitions, table

from grpo_host.config.schema import AgentConfig


def keys() -> str:
    """A section for each mapping of agent.yaml, from the outside in."""
    root = AgentConfig.model_json_schema()
    places = _places(root)
    anchors = {name: at[0] for name, at in places.items()}

    def link(name: str) -> str:
        return f"[section](#{anchors[name]})"

    parts = ["## The file {#agent}\n", table(root, link)]
    for name, at in places.items():
        schema = root["$defs"][name]
        parts += [f"## {', '.join(f'`{place}`' for place in at)} {{#{at[0]}}}\n"]
        parts += [f"{schema.get('description', '')}\n", table(schema, link)]
    return "\n".join(parts)


def _places(root: dict[str, Any]) -> dict[str, list[str]]:
    """Name of a definition → where it stands in the file, in the order of the file."""
    places: dict[str, list[str]] = {}

    def visit(schema: dict[str, Any], prefix: str) -> None:
        for key, field in schema.get("properties", {}).items():
            for name in definitions(field):
                at = f"{prefix}{key}"
                places.setdefault(name, []).append(at)
                visit(root["$defs"][name], f"{at}.")

    visit(root, "")
    return places
