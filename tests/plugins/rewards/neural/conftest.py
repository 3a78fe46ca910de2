"""The generated preferences, for tests of what is learned from them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def preferences() -> ModuleType:
    """The module ``preferences.py`` beside this file."""
    spec = importlib.util.spec_from_file_location("preferences", Path(__file__).with_name("preferences.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["preferences"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
