"""Looking up what plugins offer, and telling them what happens."""

from __future__ import annotations

import logging

import pytest

from grpo_host.plugins import Registry, load_plugins
from grpo_sdk import Task, Trajectory, hookimpl
from grpo_sdk.errors import PluginError

GOOD = """
from grpo_sdk import hookimpl, reward

@reward
def kind(trajectory) -> float:
    return 1.0

@hookimpl
def grpo_rewards():
    return {"kind": kind}
"""


def test_an_offer_is_found_by_name(index):
    index.install("acme", "1.2", code=GOOD)
    offer = load_plugins().get("reward", "kind")
    assert (offer.name, offer.kind, offer.plugin.distribution) == ("kind", "reward", "acme")
    assert str(offer) == 'reward "kind" of acme 1.2 (entry point "code")'
    assert offer.make().score(None) == 1.0


def test_a_program_registers_a_plugin_of_its_own():
    class Plugin:
        @hookimpl
        def grpo_tools(self):
            return {"dice": lambda: None}

    registry = Registry()
    registry.register(Plugin(), "mine")
    assert registry.names("tool") == ["dice"]
    assert registry.get("tool", "local:dice").plugin.name == "mine"


def test_a_name_that_nobody_offers_is_an_error_with_a_suggestion(index):
    index.install("acme", code=GOOD)
    with pytest.raises(PluginError) as error:
        load_plugins().get("reward", "kinds")
    assert str(error.value) == ('no reward "kinds". Did you mean "kind"? Run grpo-host plugins to list them.')


def test_a_name_of_another_kind_is_pointed_out(index):
    index.install("acme", code=GOOD)
    with pytest.raises(PluginError, match=r'no tool "kind"\. There is a reward of this name\.'):
        load_plugins().get("tool", "kind")


def test_an_unknown_name_mentions_broken_plugins(index):
    index.install("acme", "1.2", code="import nowhere_at_all")
    with pytest.raises(PluginError) as error:
        load_plugins().get("reward", "kind")
    assert str(error.value) == (
        'no reward "kind". Run grpo-host plugins to list them. '
        'Broken plugins, which may offer it: acme 1.2 (entry point "code"): '
        "ModuleNotFoundError: No module named 'nowhere_at_all' (site-packages/made_up_0_code.py:1)"
    )


def test_only_the_broken_plugin_that_is_named_is_mentioned(index):
    index.install("acme", "1.2", code="import nowhere_at_all")
    index.install("bad", code="1 / 0")
    with pytest.raises(PluginError) as error:
        load_plugins().get("reward", "acme:kind")
    assert str(error.value).startswith('no reward "kind" in acme. ')
    assert "nowhere_at_all" in str(error.value)
    assert "ZeroDivisionError" not in str(error.value)


def test_a_collision_is_an_error_only_where_the_name_is_used(index):
    index.install("acme", "1.2", code=GOOD)
    index.install("best", "3.4", side=GOOD)
    registry = load_plugins()
    assert registry.broken == []
    with pytest.raises(PluginError) as error:
        registry.get("reward", "kind")
    assert str(error.value) == (
        '2 plugins offer the reward "kind": acme 1.2 (entry point "code") and '
        'best 3.4 (entry point "side"). Write "acme:kind" or "best:kind" to choose.'
    )
    assert registry.get("reward", "best:kind").plugin.distribution == "best"


def test_a_built_in_keeps_its_name_when_another_plugin_takes_it(index):
    index.install("acme", code=GOOD)
    index.install("grpo-agent-framework", rewards=GOOD)
    registry = load_plugins()
    assert registry.get("reward", "kind").plugin.distribution == "grpo-agent-framework"
    assert registry.get("reward", "acme:kind").plugin.distribution == "acme"


def test_a_qualified_name_stays_right_whatever_is_installed_later(index):
    index.install("acme", code=GOOD)
    index.install("best", one=GOOD, two=GOOD)
    index.install("grpo-agent-framework", rewards=GOOD)
    registry = load_plugins()
    named = {registry.qualified(offer): offer for offer in registry.offers("reward")}
    assert list(named) == ["acme:kind", "best/one:kind", "best/two:kind", "kind"]
    assert all(registry.get("reward", name) is offer for name, offer in named.items())


def test_a_collision_within_a_distribution_is_chosen_by_entry_point(index):
    index.install("acme", code=GOOD, side=GOOD)
    registry = load_plugins()
    with pytest.raises(PluginError, match='Write "acme/code:kind" or "acme/side:kind" to choose'):
        registry.get("reward", "acme:kind")
    assert registry.get("reward", "acme/side:kind").plugin.name == "side"
    assert registry.get("reward", "acme/side:kind").identifier == "acme/side:kind"


def test_an_unknown_distribution_is_an_error_with_a_suggestion(index):
    index.install("acme", code=GOOD)
    with pytest.raises(PluginError) as error:
        load_plugins().get("reward", "acne:kind")
    assert str(error.value) == (
        'no plugin "acne" for the reward "acne:kind". Did you mean "acme"? '
        "Run grpo-host plugins to list them."
    )


def test_a_factory_that_raises_is_reported_with_its_plugin(index):
    index.install("acme", "1.2", code=GOOD.replace("kind}", "lambda: 1 / 0}"))
    with pytest.raises(PluginError) as error:
        load_plugins().get("reward", "kind").make()
    assert str(error.value) == (
        'reward "kind" of acme 1.2 (entry point "code") could not be made: '
        "ZeroDivisionError: division by zero (site-packages/made_up_0_code.py:10)"
    )


def test_a_factory_that_ends_the_process_is_reported_and_ends_nothing(index):
    index.install("acme", "1.2", code=GOOD.replace("kind}", "lambda: exit(3)}"))
    with pytest.raises(PluginError, match=r"could not be made: SystemExit: 3 \(site-packages/made_up_0_code"):
        load_plugins().get("reward", "kind").make()


def test_an_error_for_the_user_goes_through_a_factory_unchanged():
    def refuse():
        raise PluginError("give me an option")

    class Plugin:
        @hookimpl
        def grpo_rewards(self):
            return {"kind": refuse}

    registry = Registry()
    registry.register(Plugin(), "mine")
    with pytest.raises(PluginError, match=r"^give me an option$"):
        registry.get("reward", "kind").make()


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    @hookimpl
    def grpo_episode_finished(self, trajectory):
        self.heard.append(trajectory.id)

    @hookimpl
    def grpo_step_finished(self, metrics):
        self.heard.append(metrics)


class Deaf:
    @hookimpl
    def grpo_episode_finished(self):
        raise ValueError("cannot hear")

    @hookimpl
    def grpo_step_finished(self, step, metrics):
        raise ValueError("cannot hear")


TRAJECTORY = Trajectory("1", "e", Task("t"), "completed", "done", [])


def test_observers_hear_of_episodes_and_steps():
    registry, listener = Registry(), Listener()
    record = registry.register(listener, "listener")
    assert record.observes == ("grpo_episode_finished", "grpo_step_finished")
    registry.notify_episode(TRAJECTORY)
    registry.notify_step(3, {"reward": 0.5})
    assert listener.heard == ["1", {"reward": 0.5}]


def test_an_observer_that_raises_is_logged_and_silences_nobody(caplog):
    registry, listeners = Registry(), [Listener(), Listener()]
    registry.register(listeners[0], "before")
    registry.register(Deaf(), "deaf", distribution="acme", version="1.2")
    registry.register(listeners[1], "after")
    with caplog.at_level(logging.WARNING):
        registry.notify_episode(TRAJECTORY)
        registry.notify_step(3, {})
    assert [listener.heard for listener in listeners] == [["1", {}], ["1", {}]]
    assert [message.partition(" (plugins/test_registry.py:")[0] for message in caplog.messages] == [
        f'acme 1.2 (entry point "deaf"): {hook}: ValueError: cannot hear'
        for hook in ("grpo_episode_finished", "grpo_step_finished")
    ]


def test_an_observer_that_raises_again_is_reported_once(caplog):
    registry = Registry()
    registry.register(Deaf(), "often", distribution="acme", version="1.2")
    for _ in range(3):
        registry.notify_episode(TRAJECTORY)
    assert len(caplog.messages) == 1


def test_an_observer_that_exits_does_not_end_the_run(caplog):
    class Leaving:
        @hookimpl
        def grpo_episode_finished(self):
            raise SystemExit(3)

    registry = Registry()
    registry.register(Leaving(), "leaving")
    registry.notify_episode(TRAJECTORY)
    assert 'local (entry point "leaving"): grpo_episode_finished: SystemExit: 3' in caplog.text


def test_plugins_that_observe_nothing_are_not_called():
    registry = Registry()
    registry.register(type("P", (), {"grpo_rewards": hookimpl(lambda self: {})})(), "quiet")
    registry.notify_episode(TRAJECTORY)
    assert not any(registry._observers.values())
