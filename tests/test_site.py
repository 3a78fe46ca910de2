"""The site of docs/: it builds without a warning, its reference is whole, and it needs no network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

from grpo_host.cli.group import COMMANDS
from grpo_host.config.schema import AgentConfig
from grpo_host.plugins import load_plugins
from grpo_host.serving.features import all_endpoints
from grpo_sdk import hooks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


def build(into: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(config), "-d", str(into)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a dead link, a dead anchor or a page that no menu leads to ends the build."""
    directory = tmp_path_factory.mktemp("site")
    done = build(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def ids(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page.read_text()))


def public_names(package: str) -> dict[str, griffe.Object]:
    module = griffe.load(package, search_paths=[ROOT / "sdk"])
    names = {name: module[name] for name in module.exports or ()}
    return {name: found.final_target if found.is_alias else found for name, found in names.items()}


def test_the_reference_has_every_public_name_and_hook(site: Path) -> None:
    for package, page in (("grpo_sdk", "sdk.html"), ("grpo_sdk.testing", "testing.html")):
        expected = {f"{package}.{name}" for name in public_names(package)}
        assert expected
        assert expected <= ids(site / "reference" / page)
    expected = {
        f"grpo_sdk.hooks.GrpoHooks.{name}" for name in vars(hooks.GrpoHooks) if name.startswith("grpo_")
    }
    assert expected
    assert expected <= ids(site / "reference" / "hooks.html")


def test_the_reference_has_every_command_key_plugin_and_endpoint(site: Path) -> None:
    assert {f"grpo-host-{name}" for name in COMMANDS} <= ids(site / "reference" / "cli.html")
    keys = (site / "reference" / "agent-yaml.html").read_text()
    assert all(f"<code>{key}</code>" in keys for key in AgentConfig.model_fields)
    offered = {
        f"{kind}-{name}"
        for plugin in load_plugins(["grpo-agent-framework"]).plugins
        for kind, names in plugin.offers.items()
        for name in names
    }
    assert offered
    plugins = site / "reference" / "plugins.html"
    assert offered <= ids(plugins)
    assert "help(type(self))" not in plugins.read_text()  # what Python says of a class without a docstring
    http = (site / "reference" / "http.html").read_text()
    for endpoint in filter(lambda endpoint: endpoint.documented, all_endpoints()):
        path = re.sub(r":\w+}", "}", endpoint.path)
        assert f"<code>{endpoint.method} {path}</code>" in http


def test_the_search_finds_options_keys_and_names(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()

    for word in ("kv_cache_gib", "max_queued_jobs", "policy_text", "GRPO_STATE_DIR", "--resume"):
        assert word in index, word


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert pages
    for page in pages:
        loaded = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(\w+:?//[^"]+)"', page.read_text()
        )
        assert not loaded, f"{page.name}: {loaded}"


def test_a_dead_anchor_ends_the_build(tmp_path: Path) -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("theme:")]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](#nowhere)\n")
    (tmp_path / "mkdocs.yml").write_text(f"site_name: dead\nstrict: true\nplugins: []\n{validation}")

    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")

    assert done.returncode != 0
    assert "#nowhere" in done.stdout + done.stderr


@pytest.mark.parametrize("package", ["grpo_sdk", "grpo_sdk.testing"])
def test_every_public_name_its_methods_and_its_fields_have_a_docstring(package: str) -> None:
    missing = []
    for name, found in public_names(package).items():
        if not found.has_docstring:
            missing.append(name)
        if found.is_class:
            missing += [f"{name}.{method}" for method in undocumented_methods(found)]
            missing += [f"{name}.{field}" for field in undocumented_fields(found)]
    assert not missing


def undocumented_methods(found: griffe.Object) -> Iterator[str]:
    """Those without a docstring of their own or of the method that they override."""
    for name, member in found.members.items():
        if name.startswith("_") or not (member.is_function or "property" in member.labels):
            continue
        overridden = [base.members[name] for base in found.mro() if name in base.members]
        if not any(method.has_docstring for method in (member, *overridden)):
            yield name


def undocumented_fields(found: griffe.Object) -> Iterator[str]:
    """Those of a dataclass or a typed dictionary."""
    if "dataclass" in found.labels or any("TypedDict" in str(base) for base in found.bases):
        for name, member in found.members.items():
            if member.is_attribute and not name.startswith("_") and not member.has_docstring:
                yield name


def test_every_environment_variable_that_is_read_is_in_the_reference() -> None:
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (REFERENCE / "environment.md").read_text()))
    read = set(variables_read(*(ROOT / top for top in ("host", "sdk", "plugins"))))

    assert {"GRPO_CACHE", "GRPO_PLUGINS", "GRPO_STATE_DIR", "RANK"} <= read
    assert read <= documented, sorted(read - documented)
    ours = {name for name in documented if name.startswith("GRPO_")}
    assert ours <= read, sorted(ours - read)


def variables_read(*directories: Path) -> Iterator[str]:
    """What the sources take from ``os.environ``, by name or by a constant, and click by ``envvar``."""
    trees = [ast.parse(path.read_text()) for top in directories for path in top.rglob("*.py")]
    constants = {
        target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for tree in trees:
        for node in ast.walk(tree):
            for named in names_of_variables(node):
                value = (
                    named.value
                    if isinstance(named, ast.Constant)
                    else constants.get(getattr(named, "id", ""))
                )
                if isinstance(value, str) and re.fullmatch("[A-Z][A-Z0-9_]+", value):
                    yield value


def names_of_variables(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.get":
        yield node.args[0]
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
        if isinstance(node.ctx, ast.Load):
            yield node.slice
    elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
        yield node.left
    elif isinstance(node, ast.keyword) and node.arg == "envvar":
        yield node.value
