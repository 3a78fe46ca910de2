"""A library in a process of its own: what goes wrong in it is said, and stays in its episode."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_environments.bridges.process import BridgeError, Library, Package, interpreter
from grpo_sdk.errors import ConfigError

TOY = Package("toy", "toy", "toy==1", str(Path(__file__).parent / "toy_side"))


@pytest.fixture
def library():
    made = Library(TOY, sys.executable, '{"start": 10}')
    yield made
    made.close()


def test_each_episode_has_a_state_of_its_own(library):
    one, other = library.open(), library.open()
    assert [one.ask("add", number=1), other.ask("add", number=5), one.ask("add", number=1)] == [11, 15, 12]


def test_a_coroutine_is_awaited(library):
    assert library.ask("later", number=7) == 7


def test_what_the_library_raises_is_said_with_its_line(library):
    session = library.open()
    with pytest.raises(BridgeError, match=r"toy: fail\(\): KeyError: 'nothing there' \(.*toy_side\.py:\d+\)"):
        session.ask("fail")
    assert session.ask("add", number=1) == 11


def test_a_call_that_never_ends_ends_its_own_episode_alone(library):
    stuck, other = library.open(), library.open()
    with pytest.raises(BridgeError, match=r"toy: burn\(\) took more than 0\.3 s, and this episode with it"):
        stuck.ask("burn", seconds=0.3)
    with pytest.raises(BridgeError):
        stuck.ask("add", number=1)
    assert other.ask("add", number=1) == 11


def test_a_call_behind_a_long_one_does_not_wait_for_ever(library):
    session = library.open()
    waited = r"toy: add\(\) waited more than 0\.1 s for another call"
    with session._lock, pytest.raises(BridgeError, match=waited):  # another thread's call holds it
        session.ask("add", seconds=0.1, number=1)


def test_a_process_that_dies_is_reported_with_what_it_printed(library):
    with pytest.raises(BridgeError, match=r"toy: die\(\) ended its process.*out of memory, or so"):
        library.ask("die")


def test_a_library_whose_process_was_killed_is_started_again(library):
    first = library.ask("parent")
    library.ask("end_all")
    assert library._process is not None
    library._process.wait()
    assert library.ask("parent") != first


def test_closing_ends_the_process_and_its_episodes(library):
    session = library.open()
    server = session.ask("parent")
    library.close()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    with pytest.raises(BridgeError):
        session.ask("add", number=1)


def test_a_library_that_is_not_installed_is_an_error_with_the_commands(tmp_path):
    (tmp_path / "side.py").write_text("import toy_of_nobody\n")
    missing = replace(TOY, module="toy_of_nobody", side=str(tmp_path / "side"))
    with pytest.raises(ConfigError) as error:
        Library(missing, sys.executable, "{}").ask("tasks")
    said = str(error.value)
    assert "toy in" in said
    assert "ModuleNotFoundError: No module named 'toy_of_nobody'" in said
    assert "python -m venv DIRECTORY && DIRECTORY/bin/pip install toy==1" in said


def test_a_library_that_does_not_load_is_an_error_with_its_traceback(tmp_path):
    (tmp_path / "side.py").write_text("1 / 0\n")
    with pytest.raises(
        ConfigError, match=r"(?s)ended with code 1: ZeroDivisionError.*It printed:\nTraceback"
    ):
        Library(replace(TOY, side=str(tmp_path / "side")), sys.executable, "{}").ask("tasks")


def test_a_directory_without_a_python_is_no_environment(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"venv: {tmp_path} is no virtual environment")):
        interpreter(tmp_path)
