"""The public names of the SDK, for mkdocstrings to describe. griffe reads the sources and imports nothing."""

from __future__ import annotations

from pathlib import Path

import griffe

SOURCES = Path(__file__).parent.parent.parent / "sdk"


def sdk() -> str:
    """A section for each module of the SDK, with its public names."""
    return _by_module("grpo_sdk")


def testing() -> str:
    """A section for each module of ``grpo_sdk.testing``, with its public names."""
    return _by_module("grpo_sdk.testing")


def public_names(package: str) -> dict[str, griffe.Object]:
    """The names that ``package`` exports, with what they stand for."""
    module = griffe.load(package, search_paths=[SOURCES])
    names = {name: module[name] for name in module.exports or ()}
    return {name: found.final_target if found.is_alias else found for name, found in names.items()}


def _by_module(package: str) -> str:
    names = public_names(package)
    modules: dict[str, list[str]] = {}
    for name, found in names.items():
        modules.setdefault(found.module.path, []).append(name)
    parts = []
    for path in sorted(modules):
        about = next(iter(names[modules[path][0]].module.docstring.value.splitlines()))
        title = path.rpartition(".")[2].replace("_", " ").capitalize()
        parts += [f"## {title} {{#{path}-module}}\n", f"{about}\n"]
        parts += [f"::: {package}.{name}\n" for name in modules[path]]
    return "\n".join(parts)
