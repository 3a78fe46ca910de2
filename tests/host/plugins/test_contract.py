"""What makes a plugin broken, and what is then said of it."""

from __future__ import annotations

import pytest

from grpo_host.plugins import Registry, load_plugins
from grpo_sdk import hookimpl
from grpo_sdk.errors import PluginError

GOOD = "from grpo_sdk import hookimpl\n@hookimpl\ndef grpo_rewards(): return {'kind': lambda: None}"


def error_of(index, source: str) -> str:
    """Why a plugin of this source is broken."""
    index.install("acme", "1.2", code=source)
    [plugin] = load_plugins().broken
    return plugin.error


def hook(body: str, *, name: str = "grpo_rewards", head: str = "") -> str:
    return f"{head}\nfrom grpo_sdk import hookimpl\n@hookimpl\ndef {name}():\n    {body}\n"


def test_a_plugin_that_exits_while_it_is_imported_is_broken(index):
    assert error_of(index, "raise SystemExit(3)") == "SystemExit: 3 (site-packages/made_up_0_code.py:1)"


def test_an_entry_point_without_its_object_is_broken(index):
    index.install("acme", code=GOOD)
    index.describe("twin", code="made_up_0_code:missing")
    [plugin] = load_plugins().broken
    assert plugin.error == "AttributeError: module 'made_up_0_code' has no attribute 'missing'"


def test_neither_python_nor_importlib_metadata_is_where_an_entry_point_broke(index):
    pytest.importorskip("importlib_metadata")
    index.install("acme", code=GOOD)
    index.describe("twin", code="made_up_0_code:missing")
    [plugin] = load_plugins().broken
    assert plugin.error.endswith("has no attribute 'missing'")


def test_a_hook_with_a_wrong_signature_is_broken(index):
    source = "from grpo_sdk import hookimpl\n@hookimpl\ndef grpo_rewards(host): return {}"
    error = error_of(index, source)
    assert error.startswith("PluginValidationError:")
    assert "grpo_rewards" in error
    assert "{'host'}" in error


def test_a_hook_that_raises_is_broken(index):
    error = error_of(index, hook("raise RuntimeError('no licence')"))
    assert error.startswith("grpo_rewards raised RuntimeError: no licence (site-packages/made_up_0_code.py:")


def test_a_hook_that_returns_no_mapping_is_broken(index):
    error = error_of(index, hook("return ['kind']"))
    assert error == "grpo_rewards returned list, not a mapping of names to factories"


def test_one_bad_hook_takes_the_whole_plugin_out(index):
    index.install("acme", code=GOOD + "\n" + hook("return None", name="grpo_tools"))
    registry = load_plugins()
    assert registry.names("reward") == []
    assert registry.broken[0].error.startswith("grpo_tools returned NoneType")
    assert registry._manager.get_plugins() == set()


@pytest.mark.parametrize("name", ["", "two words", "a:b", "a/b"])
def test_a_name_that_agent_yaml_cannot_say_is_refused(index, name):
    assert error_of(index, hook(f"return {{{name!r}: lambda: None}}")) == (
        f"grpo_rewards offers the name {name!r}; a name is text without spaces, colons and slashes"
    )


def test_an_offer_that_is_no_factory_is_refused(index):
    assert error_of(index, hook("return {'kind': 3}")) == (
        'grpo_rewards offers "kind" as int, not a factory; write lambda: … where it is made already'
    )


def test_a_backend_that_is_no_subclass_is_refused(index):
    error = error_of(index, hook("return {'x': lambda model: None}", name="grpo_backends"))
    assert error == 'grpo_backends offers "x", which is not a subclass of grpo_sdk.Backend'


def test_a_backend_without_capabilities_is_refused(index):
    head = "from grpo_sdk import Backend\nclass Mute(Backend): pass"
    assert error_of(index, hook("return {'x': Mute}", name="grpo_backends", head=head)) == (
        'grpo_backends offers "x", whose class Mute states no capabilities '
        "(a frozenset of grpo_sdk.Capability)"
    )


def test_a_misspelt_hook_is_refused_with_a_suggestion(index):
    error = error_of(index, hook("return {}", name="grpo_reward"))
    assert error == 'there is no hook grpo_reward. Did you mean "grpo_rewards"?'


def test_an_unknown_hook_is_refused_with_the_list(index):
    error = error_of(index, hook("return {}", name="xyzzy"))
    assert error.startswith("there is no hook xyzzy. The hooks are: grpo_rewards, grpo_tools,")


def test_an_unmarked_hook_is_refused(index):
    error = error_of(index, "def grpo_rewards(): return {}")
    assert error == "grpo_rewards is not marked with @grpo_sdk.hookimpl"


def test_a_plugin_without_hooks_is_refused(index):
    assert error_of(index, "x = 1").startswith("it implements no hook. The hooks are: grpo_rewards")


def test_an_async_hook_is_refused(index):
    source = "from grpo_sdk import hookimpl\n@hookimpl\nasync def grpo_rewards(): return {}"
    assert error_of(index, source) == "grpo_rewards is async; hooks are plain functions"


def test_a_hook_wrapper_is_refused(index):
    mark = "from grpo_sdk import hookimpl\n@hookimpl(wrapper=True)\n"
    assert error_of(index, f"{mark}def grpo_rewards():\n    return (yield)") == (
        "grpo_rewards is a hook wrapper, and plugins cannot wrap others' hooks"
    )


@pytest.mark.parametrize("stated", ["(1, 1)", "(0, 9)", "1"])
def test_a_supported_hook_api_is_accepted(index, stated):
    index.install("acme", code=f"GRPO_HOOK_API = {stated}\n{GOOD}")
    assert load_plugins().names("reward") == ["kind"]


@pytest.mark.parametrize(("stated", "said"), [("(2, 3)", "2 to 3"), ("99", "99")])
def test_an_unsupported_hook_api_is_refused(index, stated, said):
    assert error_of(index, f"GRPO_HOOK_API = {stated}\n{GOOD}") == (
        f"it is written for hook API {said}, and this host has 1. "
        "Install a version of it for hook API 1, or another grpo-agent-framework"
    )


def test_a_hook_api_of_a_wrong_kind_is_refused(index):
    error = error_of(index, f"GRPO_HOOK_API = 'one'\n{GOOD}")
    assert error == "GRPO_HOOK_API is 'one', not a pair of numbers (lowest, highest)"


def test_two_entry_points_for_one_object_are_refused(index):
    index.install("acme", code=GOOD)
    index.describe("twin", code="made_up_0_code")
    [plugin] = load_plugins().broken
    assert plugin.distribution == "twin"
    assert plugin.error == "the same object is registered under another name"


def test_a_broken_plugin_of_a_program_is_an_error():
    with pytest.raises(PluginError) as error:
        Registry().register(object(), "mine")
    assert str(error.value).startswith('local (entry point "mine"): it implements no hook.')


def test_a_program_registers_a_name_once():
    registry = Registry()
    registry.register(type("P", (), {"grpo_rewards": hookimpl(lambda self: {})})(), "mine")
    with pytest.raises(PluginError, match="a plugin of this name is registered already"):
        registry.register(type("P", (), {"grpo_rewards": hookimpl(lambda self: {})})(), "mine")
