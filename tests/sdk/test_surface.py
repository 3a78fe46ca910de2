"""What importing the SDK offers, and what it costs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import grpo_sdk
import grpo_sdk.testing

HEAVY = ("torch", "transformers", "pydantic", "langchain_core", "numpy", "pytest", "starlette", "sqlite3")


@pytest.mark.parametrize("module", ["grpo_sdk", "grpo_sdk.hooks", "grpo_sdk.testing", "grpo_sdk.toolbox"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["rewards", "tools", "environments"])
def test_importing_a_built_in_plugin_loads_nothing_heavy(package):
    code = (
        f"import sys, grpo_{package}.plugin as plugin; plugin.grpo_{package}();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NAMES = """
Backend Capability ChatReply FinishReason ModelSpec Sampling TokenReply
Cache Curriculum Embedder
Environment Observation StepResult Task
ConfigError ContextOverflowError GrpoError MissingExtraError ModelError ProviderError
hookimpl
Message ToolCall ToolSchema assistant system tool_call tool_result user
GroupReward Reward RewardResult reward score_messages
StopReason ToolRun Trajectory Turn
Strategy ToolBundle ToolCallError ToolsLostError derive_seed record_reward
"""


def test_these_names_are_public():
    assert sorted(grpo_sdk.__all__) == sorted(NAMES.split())


def test_all_names_are_offered_and_nothing_else():
    assert sorted(grpo_sdk.__all__) == sorted(grpo_sdk._MODULE_OF)
    assert dir(grpo_sdk) == sorted(grpo_sdk.__all__)


@pytest.mark.parametrize("name", grpo_sdk.__all__)
def test_every_name_comes_from_the_module_that_is_said(name):
    module = importlib.import_module(f"grpo_sdk.{grpo_sdk._MODULE_OF[name]}")
    assert getattr(grpo_sdk, name) is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'grpo_sdk' has no attribute 'Rewardd'"):
        grpo_sdk.Rewardd  # noqa: B018


def test_testing_offers_what_it_says():
    assert all(hasattr(grpo_sdk.testing, name) for name in grpo_sdk.testing.__all__)


def test_every_hook_is_documented_and_every_registration_hook_has_a_kind():
    from grpo_sdk.hooks import REGISTRATION_HOOKS, GrpoHooks

    hooks = {name: value for name, value in vars(GrpoHooks).items() if name.startswith("grpo_")}
    assert all(value.__doc__ for value in hooks.values())
    assert set(REGISTRATION_HOOKS) <= set(hooks)
