"""Where bridged libraries are: ``make bridges`` installs each in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bench.bridges import compare


@pytest.fixture(scope="session")
def venv() -> Callable[[str], Path]:
    """The virtual environment of a library; the test is skipped without it."""

    def find(name: str) -> Path:
        found = compare.venv(name)
        if found is None:
            pytest.skip(f"no {name} in {compare.VENVS}; `make bridges` brings it")
        return found

    return find
