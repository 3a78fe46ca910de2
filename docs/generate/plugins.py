"""The plugins that come with the package, with their options, as ``agent.yaml`` names them."""

from __future__ import annotations

from json_schema import table

from grpo_host.plugins import load_plugins
from grpo_host.plugins.describe import docstrings
from grpo_host.plugins.options import options_model
from grpo_host.plugins.record import KINDS, Offer

DISTRIBUTION = "grpo-agent-framework"


def built_in() -> str:
    """A section for each kind of plugin, and in it one for each name."""
    registry = load_plugins([DISTRIBUTION])
    parts = []
    for kind in KINDS:
        plural = {"strategy": "strategies", "curriculum": "curricula"}.get(kind, f"{kind}s")
        parts.append(f"## {plural.capitalize()} {{#{plural}}}\n")
        names = sorted({name for plugin in registry.plugins for name in plugin.offers.get(kind, ())})
        parts += [_section(registry.get(kind, name)) for name in names]
    return "\n".join(parts)


def _section(offer: Offer) -> str:
    schema = options_model(offer).model_json_schema()
    heading = f"### `{offer.name}` {{#{offer.kind}-{offer.name}}}\n"
    options = table(schema, _link, of="option") if schema["properties"] else "No options.\n"
    return "\n".join([heading, *(f"{text}\n" for text in docstrings(offer.factory)), options])


def _link(name: str) -> str:
    if name == "BackendUse":
        return "a backend: `name`, `model` and `options`, as in [agent.yaml](agent-yaml.md)"
    return f"`{name}`"
