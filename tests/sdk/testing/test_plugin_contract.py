"""The contract of a plugin as a whole names each of these mistakes, and says how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from grpo_sdk.testing import PluginContract

HEAVY = """
    import logging, random
    import jax
    from grpo_sdk import hookimpl

    print("Loading the acme model ...")
    logging.basicConfig()
    random.seed(0)
    total = sum(number * number for number in range(2_000_000))

    @hookimpl
    def grpo_strategies():
        return {}
"""

CARELESS = '''
    import time
    from grpo_sdk import Strategy, hookimpl, reward

    @reward
    def undocumented(trajectory) -> float:
        return 0.0

    class Options:
        pass

    def odd(*, options: Options):
        """Its option cannot be written in YAML, and must be given."""
        return Strategy("odd", "You are odd.")

    def short():
        """Has another name than that by which it is offered."""
        return Strategy("brief")

    @hookimpl
    def grpo_rewards():
        return {"undocumented": undocumented}

    @hookimpl
    def grpo_strategies():
        return {"short": short, "odd": odd}

    @hookimpl
    def grpo_episode_finished(trajectory):
        trajectory.outcome["seen"] = True

    @hookimpl
    def grpo_step_finished(step):
        time.sleep(0.04)
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a distribution importable here and in other processes: its name, and where its entry point leads."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "jax.py").touch()  # light, but called as a heavy package is
    before = set(sys.modules)

    def install(distribution: str, leads_to: str, source: str = "") -> None:
        (tmp_path / f"{leads_to.partition(':')[0]}.py").write_text(dedent(source))
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[grpo]\nthing = {leads_to}\n")

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("made_"):
            del sys.modules[name]


def contract(name: str, **limits: Any) -> PluginContract:
    made: PluginContract = type("Contract", (PluginContract,), {"distribution": name, **limits})()
    return made


def failure(test: Callable[..., None], *arguments: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        test(*arguments)
    assert "\nFix: " in str(raised.value)
    return str(raised.value)


def test_what_a_plugin_does_when_it_is_imported_is_named(install: Install) -> None:
    install("acme_heavy", "made_heavy", HEAVY)
    checked = contract("acme-heavy", import_seconds=0.01)

    assert "importing acme-heavy loads jax" in failure(checked.test_importing_it_is_light)
    assert "importing it prints 'Loading the acme model ...\\n'" in failure(
        checked.test_importing_it_is_silent
    )
    assert "generator of random" in failure(checked.test_importing_it_seeds_no_global_generator)
    slow = failure(checked.test_importing_it_is_fast)
    assert "s; slowest: made_heavy " in slow
    checked.imported.__dict__["printed"] = ""
    assert "gives the root logger ['<StreamHandler" in failure(checked.test_importing_it_is_silent)


def test_an_entry_point_that_leads_nowhere_is_named(install: Install) -> None:
    install("acme_lost", "made_lost:plugin")
    said = failure(contract("acme-lost").test_its_entry_points_lead_to_plugins)
    assert 'the entry point "thing" leads to made_lost:plugin, which cannot be loaded: AttributeError' in said


def test_a_distribution_that_is_not_installed_is_named() -> None:
    said = failure(contract("acme-none").test_its_entry_points_lead_to_plugins)
    assert "acme-none is not installed: pip install -e ." in said


def test_what_a_plugin_offers_and_observes_is_tried(install: Install, grpo_plugin_host: Any) -> None:
    install("acme_careless", "made_careless", CARELESS)
    checked = contract("acme-careless", blocking_seconds=0.02)

    described = failure(checked.test_everything_that_it_offers_is_described, grpo_plugin_host)
    assert 'the reward "undocumented" has no docstring' in described
    strategies = failure(checked.test_its_strategies_say_who_the_agent_is, grpo_plugin_host)
    assert 'the strategy "short" calls itself "brief"' in strategies
    observers = failure(checked.test_its_observers_are_quick_and_change_nothing, grpo_plugin_host)
    assert "grpo_episode_finished changed what it was given" in observers


def test_a_slow_observer_is_named(install: Install, grpo_plugin_host: Any) -> None:
    install("acme_slow", "made_slow", CARELESS.replace('trajectory.outcome["seen"] = True', "pass"))
    checked = contract("acme-slow", blocking_seconds=0.02)
    said = failure(checked.test_its_observers_are_quick_and_change_nothing, grpo_plugin_host)
    assert "grpo_step_finished took 0.0" in said


def test_options_that_yaml_cannot_write_are_named(install: Install, grpo_plugin_host: Any) -> None:
    install("acme_odd", "made_odd", CARELESS.replace('return {"undocumented": undocumented}', "return {}"))
    said = failure(contract("acme-odd").test_everything_that_it_offers_is_described, grpo_plugin_host)
    assert 'the strategy "odd" cannot be named in agent.yaml' in said


class TestTheBuiltInPlugins(PluginContract):
    distribution = "grpo-agent-framework"
