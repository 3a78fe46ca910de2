"""The usage guide's names: what importing them offers, and what it costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import grpo_agent_framework

HEAVY = ("torch", "transformers", "vllm", "trl", "litellm", "starlette", "uvicorn", "langchain_core", "numpy")
ENGINES = ("torch", "transformers", "vllm", "trl", "litellm", "starlette", "uvicorn")

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(grpo_agent_framework.__path__, "grpo_agent_framework.")
    if not info.name.endswith("__main__")
)


def loaded_after(code: str, watched: tuple[str, ...]) -> list[str]:
    script = f"import sys\n{code}\nprint(*[name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import grpo_agent_framework", HEAVY) == []


def test_importing_any_of_its_modules_loads_no_engine() -> None:
    assert loaded_after("\n".join(f"import {name}" for name in MODULES), ENGINES) == []


def test_the_names_offered_are_those_with_a_home() -> None:
    assert sorted(grpo_agent_framework.__all__) == sorted(grpo_agent_framework._MODULE_OF)
    assert dir(grpo_agent_framework) == sorted(grpo_agent_framework.__all__)


@pytest.mark.parametrize("name", grpo_agent_framework.__all__)
def test_every_name_comes_from_the_module_that_is_said(name: str) -> None:
    home = importlib.import_module(f"grpo_agent_framework.{grpo_agent_framework._MODULE_OF[name]}")
    assert getattr(grpo_agent_framework, name) is getattr(home, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(
        AttributeError, match="module 'grpo_agent_framework' has no attribute 'MultiturnAgent'"
    ):
        grpo_agent_framework.MultiturnAgent  # noqa: B018
