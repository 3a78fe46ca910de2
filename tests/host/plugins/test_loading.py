"""Which plugins are loaded, and that none of them stops the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.plugins import load_plugins
from grpo_sdk.errors import PluginError

GOOD = "from grpo_sdk import hookimpl\n@hookimpl\ndef grpo_rewards(): return {'kind': lambda: None}"


def test_broken_plugin_does_not_stop_the_host(index, caplog):
    index.install("acme", "0.2", code="import nowhere_at_all")
    index.install("good", fine=GOOD)
    registry = load_plugins()
    assert registry.names("reward") == ["kind"]
    [plugin] = registry.broken
    assert str(plugin) == 'acme 0.2 (entry point "code")'
    assert plugin.error == (
        "ModuleNotFoundError: No module named 'nowhere_at_all' (site-packages/made_up_0_code.py:1)"
    )
    assert caplog.messages == [
        'plugin acme 0.2 (entry point "code") is broken and left out: '
        "ModuleNotFoundError: No module named 'nowhere_at_all' (site-packages/made_up_0_code.py:1)"
    ]


def test_what_a_plugin_prints_while_it_is_imported_goes_to_stderr(index, capsys):
    index.install("acme", code=f"print('hello')\n{GOOD}")
    load_plugins()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_loading_twice_changes_nothing(index):
    index.install("acme", code=GOOD)
    index.install("bad", code="1 / 0")
    first = load_plugins()
    again = load_plugins(registry=first)
    assert again is first
    assert [plugin.distribution for plugin in again.plugins] == ["acme", "bad"]
    assert load_plugins().plugins == first.plugins


def test_disabled_plugins_are_not_imported(index):
    index.install("acme", code="raise AssertionError")
    assert load_plugins(disable=True).plugins == []


@pytest.mark.parametrize("name", ["code", "my-acme", "My_Acme", "my.acme/code"])
def test_an_allow_list_names_entry_points_or_distributions(index, name):
    index.install("my-acme", code=GOOD)
    index.install("other", side="raise AssertionError")
    assert [plugin.distribution for plugin in load_plugins([name]).plugins] == ["my-acme"]


def test_an_empty_allow_list_loads_nothing(index):
    index.install("acme", code=GOOD)
    assert load_plugins([]).plugins == []


def test_a_missing_plugin_of_the_allow_list_is_fatal(index):
    index.install("acme", code=GOOD)
    with pytest.raises(PluginError) as error:
        load_plugins(["acne"])
    assert str(error.value) == (
        'plugin "acne" is not installed. Did you mean "acme"? Run grpo-host plugins to list what is.'
    )


def test_a_broken_plugin_of_the_allow_list_is_fatal(index):
    index.install("acme", "1.2", code="1 / 0")
    with pytest.raises(PluginError) as error:
        load_plugins(["acme"])
    assert str(error.value) == (
        'plugin acme 1.2 (entry point "code") was asked for and is broken: '
        "ZeroDivisionError: division by zero (site-packages/made_up_0_code.py:1). "
        "Mend or reinstall it, or leave it out of --plugins"
    )


@pytest.mark.slow
def test_an_installed_distribution_is_found_whole(tmp_path):
    package = Path(__file__).parents[2] / "extension_package"
    target = tmp_path / "target"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target), str(package)]
    subprocess.run([*install, *options], check=True, timeout=200)
    listing = subprocess.run(
        [sys.executable, "-c", "from grpo_host.cli import main; main(['plugins', '--json'])"],
        env={**os.environ, "PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = {p["name"]: p for p in json.loads(listing.stdout) if p["distribution"] == "acme-grpo"}
    assert found["acme"]["version"] == "1.2.3"
    assert found["acme"]["offers"] == {
        "reward": ["acme_politeness"],
        "tool": ["acme_dice"],
        "environment": ["acme_echo"],
    }
    assert found["acme-collision"]["offers"] == {"reward": ["length"]}
    errors = {name: plugin["error"] for name, plugin in found.items() if plugin["error"]}
    assert set(errors) == {"acme-broken", "acme-wrong-signature", "acme-future"}
    assert errors["acme-broken"] == (
        "ImportError: No module named 'acme_missing_dependency' (acme_grpo/broken.py:3)"
    )
    assert "'host'" in errors["acme-wrong-signature"]
    assert "hook API 99" in errors["acme-future"]
