"""The tool that runs code that a model wrote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from grpo_sdk import ConfigError, tool_call
from grpo_sdk.testing import ToolContract
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLimits
from grpo_tools import python_code
from grpo_tools.python_code import CHILD, python_tool


def namespaces() -> bool:
    """Whether this machine gives them to unprivileged users."""
    try:
        python_tool()
    except ConfigError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not namespaces(), reason="needs Linux's user namespaces"
)


class TestPython(ToolContract):
    arguments: ClassVar = {"code": "print(6 * 7)"}
    invalid_arguments: ClassVar = ({"code": 7}, {})

    def make(self):
        return python_tool(seconds=60)


class TestPythonOfAnEpisode(TestPython):
    def make(self):
        return python_tool(seconds=60, per="episode")


def in_one_episode(*codes: str, seconds: float = 60.0, **options) -> list[str]:
    """What programs of one session answer, one after the other."""

    async def session() -> list[str]:
        async with python_tool(per="episode", seconds=seconds, **options).open() as python:
            toolbox = Toolbox([python], ToolLimits(seconds=120, output_chars=100_000))
            said = []
            for code in codes:
                [(message, _)] = await toolbox.run([tool_call("python", json.dumps({"code": code}), "c")])
                said.append(message["content"])
            return said

    return asyncio.run(session())


def answers(*codes: str, seconds: float = 60.0, **options) -> list[str]:
    toolbox = Toolbox(
        [python_tool(seconds=seconds, **options)], ToolLimits(seconds=120, output_chars=100_000)
    )
    calls = [tool_call("python", json.dumps({"code": code}), f"c{n}") for n, code in enumerate(codes)]
    return [message["content"] for message, _ in asyncio.run(toolbox.run(calls))]


def test_a_program_gives_what_it_prints_and_the_value_of_its_last_line():
    assert answers("print('a')\n1 + 1", "x = 1", "import sys; sys.exit(0)") == [
        "a\n2",
        "[nothing was printed]",
        "[nothing was printed]",
    ]


def test_an_error_has_the_programs_own_traceback_alone():
    [text] = answers("x = 1\ny = x / 0")
    assert text.startswith("Error: Traceback")
    assert 'File "<code>", line 2' in text
    assert "y = x / 0" in text
    assert "python_child" not in text
    assert text.endswith("ZeroDivisionError: division by zero\n[exit code 1]")


def test_a_program_that_cannot_be_read_is_shown_its_own_line_alone():
    [text] = answers("x = 1\ndef f(:")
    assert "ast.py" not in text
    assert text.startswith('Error: File "<code>", line 2\n    def f(:')


def test_an_exit_code_is_an_error():
    assert answers("import sys; sys.exit(3)") == ["Error: [exit code 3]"]


def test_nothing_is_kept_between_calls_and_the_directory_is_deleted():
    code = "import os; open('a', 'w').close(); print(os.getcwd(), os.listdir())"
    one, two = answers(code, code)
    assert one.endswith("['a']")
    assert two.endswith("['a']")
    assert one.split()[0] != two.split()[0]
    assert not Path(one.split()[0]).exists()


def test_it_sees_none_of_our_variables(monkeypatch):
    monkeypatch.setenv("GRPO_SECRET_OF_OURS", "secret")
    assert answers("import os; print('GRPO_SECRET_OF_OURS' in os.environ)") == ["False"]


def test_memory_files_and_output_have_limits():
    memory, file, output = answers(
        "x = bytearray(400 * 2**20)",
        "open('a', 'wb').write(bytes(3 * 2**20))",
        "while True: print('x' * 1000)",
        memory_mb=256,
        file_mb=1,
        output_chars=5000,
    )
    assert "MemoryError" in memory
    assert "File too large" in file
    assert output.endswith("[the program was ended: it printed more than 5000 characters]")
    assert len(output) < 6000


def test_cpu_time_has_a_limit():
    [text] = answers("while True: pass", cpu_seconds=1)
    assert text == "Error: [the program was killed: it used up its 1 s of CPU time, or the machine's memory]"


def test_time_has_a_limit():
    assert answers("import time; time.sleep(60)", seconds=0.5) == ["Error: the program took more than 0.5 s"]


async def test_it_reaches_no_network_not_even_this_machines():
    server = await _refused()
    assert "Network is unreachable" in server


async def _refused() -> str:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    toolbox = Toolbox([python_tool(seconds=60)], ToolLimits(seconds=120))
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    [(message, _)] = await toolbox.run([tool_call("python", json.dumps({"code": code}), "c")])
    server.close()
    return message["content"]


def test_it_cannot_signal_this_process():
    assert "ProcessLookupError" in answers(f"import os; os.kill({os.getpid()}, 0)")[0]


def test_what_it_starts_ends_with_it_though_it_has_left_the_session(tmp_path):
    late = tmp_path / "late"
    code = (
        "import subprocess, sys\n"
        f"child = 'import time; time.sleep(1); open({str(late)!r}, \"w\")'\n"
        "subprocess.Popen([sys.executable, '-c', child], start_new_session=True)\n"
    )
    answers(code)
    time.sleep(1.5)
    assert not late.exists()


async def test_a_call_that_is_given_up_leaves_no_process(tmp_path):
    late = tmp_path / "late"
    code = f"import time; time.sleep(1); open({str(late)!r}, 'w')"

    toolbox = Toolbox([python_tool(seconds=60)], ToolLimits(seconds=0.5))
    await toolbox.run([tool_call("python", json.dumps({"code": code}), "c")])
    await asyncio.sleep(1.2)
    assert not late.exists()


def test_a_machine_without_namespaces_is_told_what_to_do(monkeypatch):
    done = subprocess.CompletedProcess([], -31)
    monkeypatch.setattr(python_code.subprocess, "run", lambda *_, **__: done)
    python_code._require_namespaces.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"gives no namespaces to unprivileged users.*network: true"):
            python_tool()
        assert python_tool(network=True) is not None
    finally:
        python_code._require_namespaces.cache_clear()


def test_with_network_code_runs_too():
    assert answers("print(1)", network=True) == ["1"]


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(python_code.sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="the tool python needs Linux"):
        python_tool()


def test_the_child_is_a_file_of_the_package():
    assert CHILD.is_file()


def test_programs_of_an_episode_use_what_earlier_ones_defined():
    said = in_one_episode("x = 41\nopen('a', 'w').close()", "x + 1", "1 / 0", "import sys; sys.exit(3)", "x")
    assert said[:2] == ["[nothing was printed]", "42"]
    assert 'File "<code 3>", line 1' in said[2]
    assert said[3:] == ["Error: [exit code 3]", "41"]


def test_a_session_that_is_ended_says_that_it_lost_what_it_knew_and_begins_anew():
    lost = "what earlier programs defined is lost"
    programs = ("x = 1", "import os; os._exit(0)", "x", "print('a' * 2000)", "2")
    _, ended, unknown, long, answer = in_one_episode(*programs, output_chars=1000)
    assert ended == f"Error: [the program ended its process; {lost}]"
    assert "NameError: name 'x' is not defined" in unknown
    assert long.endswith(f"[the program was ended: it printed more than 1000 characters; {lost}]")
    assert answer == "2"
    [late] = in_one_episode("while True: pass", seconds=0.5)
    assert late == f"Error: the program took more than 0.5 s, and was ended: {lost}"


def test_a_program_of_a_session_ends_wherever_it_prints():
    said = in_one_episode("import io, sys\nsys.stdout = io.StringIO()\nprint(1)", seconds=10)
    assert said == ["[nothing was printed]"]


def test_a_program_whose_call_was_given_up_does_not_hold_up_the_next():
    async def session() -> str:
        async with python_tool(per="episode", seconds=60).open() as python:
            first = asyncio.create_task(python("import time; time.sleep(50)"))
            await asyncio.sleep(0.5)
            first.cancel()
            return await python("1 + 1")

    assert asyncio.run(session()) == "2"
