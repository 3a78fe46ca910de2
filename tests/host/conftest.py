"""Distributions of plugins, made up in a temporary directory."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from textwrap import dedent

import pytest


class PluginIndex:
    """Makes installed distributions, which are the only ones that ``load_plugins`` sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count()

    def install(self, distribution: str, version: str = "1.0", **modules: str) -> None:
        """A distribution with an entry point for each of ``modules``: name → source."""
        number = next(self._numbers)
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(header)
        lines = ["[grpo]"]
        for name, source in modules.items():
            module = f"made_up_{number}_{name}"
            (self.path / f"{module}.py").write_text(dedent(source))
            lines.append(f"{name} = {module}")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def entry_points(self, *, group: str) -> list[EntryPoint]:
        found = distributions(path=[str(self.path)])
        return [e for d in found for e in d.entry_points if e.group == group]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginIndex]:
    path = tmp_path / "site-packages"
    path.mkdir()
    made = PluginIndex(path)
    monkeypatch.setattr("grpo_host.plugins.loading.entry_points", made.entry_points)
    monkeypatch.syspath_prepend(str(path))
    yield made
    for name in [name for name in sys.modules if name.startswith("made_up_")]:
        del sys.modules[name]


def offering(**offers: Mapping[str, str]) -> str:
    """Source of a plugin with a hook for each of ``offers``: hook → name → expression."""
    lines = ["from grpo_sdk import *", "from grpo_sdk import hookimpl"]
    for hook, names in offers.items():
        body = ", ".join(f"{name!r}: {expression}" for name, expression in names.items())
        lines += ["@hookimpl", f"def {hook}():", f"    return {{{body}}}"]
    return "\n".join(lines)
