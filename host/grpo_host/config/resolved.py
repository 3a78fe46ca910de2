"""Write a configuration as YAML with every default, and with secrets still as references."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from grpo_host.config.backend_checks import NEEDED, honoured
from grpo_host.config.references import escape_references
from grpo_host.config.resolve import ResolvedConfig, plugin_uses
from grpo_host.config.schema import LabelledUse
from grpo_host.config.served_sampling import served_sampling
from grpo_host.plugins.reference import file_reference

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins.options import ResolvedUse
    from grpo_host.utils.validation import Location
    from grpo_sdk.backend import Backend


def dump_resolved(
    resolved: ResolvedConfig, *, comments: Iterable[str] = (), output: str | None = None
) -> str:
    """The YAML text, ``comments`` on top. ``load_config`` reads it back as the same configuration.

    Plugins are named so that no other that is installed later can be meant; ``output`` stands in place of
    what the file says.

    What came from environment variables stays a reference, so that no secret is written. Raises
    ``PluginError`` if a plugin is not there, ``OptionsError`` if options do not fit.
    """
    config, registry = resolved.config, resolved.registry
    values = _values(config)
    for location, _, use in plugin_uses(config):
        found, written = resolved.use(location), _at(values, location)
        written["options"] = found.complete()
        if not file_reference(use.name):
            label = use.label if isinstance(use, LabelledUse) else None
            _qualify(written, registry.qualified(found.offer), label)
    values["serving"]["sampling"] = served_sampling(config).model_dump(mode="json")
    _leave_out_unused(values["model"], resolved.use(("backend",)))
    for location in resolved.backend_options():
        found, written = resolved.use(location), _at(values, location)
        written["options"] = found.complete()
        _qualify(written, registry.qualified(found.offer))
        _leave_out_unused(written["model"], found)
    values = escape_references(values)
    for location, text in resolved.references.items():
        _put_back(values, location, text)
    if output is not None:
        values["output"] = escape_references(output)
    return to_yaml(values, comments)


def _qualify(written: dict[str, Any], name: str, label: str | None = None) -> None:
    """Name a plugin's part by ``name``; what has a ``label`` of its own goes on being called by it."""
    if written["name"] == name:
        return
    written["name"] = name
    if label not in (None, name):
        behind = {key: written.pop(key) for key in list(written) if key not in ("name", "options")}
        behind.pop("as", None)
        written |= {"as": label, **behind}


def dump_plain(config: AgentConfig, *, comments: Iterable[str] = ()) -> str:
    """``config`` as YAML text, ``comments`` on top; its plugins need not be installed."""
    return to_yaml(_values(config), comments)


def _values(config: AgentConfig) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    for use in (*values["rewards"], *values["environments"]):
        if use["as"] is None:  # as a run of an earlier version wrote it
            del use["as"]
    for reward in values["rewards"]:
        if not reward["environments"]:  # as above
            del reward["environments"]
    del values["environment" if values["environments"] else "environments"]
    return values


_LINE_ENDS = frozenset("\x85\u2028\u2029\ufeff")
"""YAML's readers take them for ends of lines, or drop them, if they are not escaped."""


def to_yaml(values: Any, comments: Iterable[str] = ()) -> str:
    """``values`` as YAML text, ``comments`` on top; every text is read back as it is."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        def represent_text(self, text: str) -> Any:
            style = '"' if not _LINE_ENDS.isdisjoint(text) else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Representer.add_representer(str, Representer.represent_text)
    stream = io.StringIO()
    stream.writelines(f"# {line}\n" for line in comments)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = False
    yaml.width = 100
    yaml.dump(values, stream)
    return stream.getvalue()


def _leave_out_unused(model: dict[str, Any], backend: ResolvedUse) -> None:
    """Leave settings out that the backend cannot honour: a check would refuse them there."""
    for key in NEEDED:
        if not honoured(key, cast("type[Backend]", backend.offer.factory)):
            del model[key]


def _put_back(values: Any, location: Location, text: str) -> None:
    parent = _at(values, location[:-1])
    last: Any = location[-1]
    if isinstance(parent[last], dict):  # a name alone stood for the section
        parent[last]["name"] = text
    else:
        parent[last] = text


def _at(values: Any, location: Location) -> Any:
    for step in location:
        values = values[step]
    return values
