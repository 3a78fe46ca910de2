"""What a third party writes passes the contracts, with nothing but grpo_sdk."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from grpo_sdk import Environment, Reward
from grpo_sdk.testing import EnvironmentContract, RewardContract, ToolContract
from grpo_sdk.tools import ToolLike


@pytest.fixture(scope="module")
def acme() -> Iterator[ModuleType]:
    package = str(Path(__file__).parents[1] / "extension_package")
    sys.path.insert(0, package)
    try:
        yield importlib.import_module("acme_grpo.plugin")
    finally:
        sys.path.remove(package)
        for name in [name for name in sys.modules if name.split(".")[0] == "acme_grpo"]:
            del sys.modules[name]


class Acme:
    @pytest.fixture(autouse=True)
    def _plugin(self, acme: ModuleType) -> None:
        self.acme = acme


class TestPoliteness(Acme, RewardContract):
    def make(self) -> Reward:
        return self.acme.acme_politeness(word="sorry")


class TestDice(Acme, ToolContract):
    arguments: ClassVar = {"times": 3}
    invalid_arguments = ({"times": 0}, {"times": "many"}, {})

    def make(self) -> ToolLike:
        return self.acme.acme_dice(sides=20)


class TestEcho(Acme, EnvironmentContract):
    def make(self) -> Environment:
        return self.acme.AcmeEcho(attempts=2)
