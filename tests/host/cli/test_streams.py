"""The command line where standard streams are not as they are on a developer's terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

AGENT = """\
name: desk
model: x/y
backend: {name: scripted, options: {replies: ["Grüße → 日本"]}}
environment: arithmetic
rewards: [length]
"""
COMMANDS = {
    "help": ["--help"],
    "plugins": ["plugins"],
    "models": ["models"],
    "check": ["check", "agent.yaml", "--for", "eval", "--resolved"],
    "eval": ["eval", "agent.yaml", "--episodes", "2"],
    "rollout": ["rollout", "agent.yaml", "--episodes", "2"],
    "keys": ["keys", "create", "--name", "me", "--agent", "agent.yaml"],
    "an error": ["check", "no-Grüße.yaml"],
}
CODE = "import sys; from grpo_host.cli import main; sys.exit(main(sys.argv[1:]))"
ALONE = "import os, sys, pwd\ndef nobody(_): raise KeyError\npwd.getpwuid = nobody\n"
"""Nobody is in the system's list of users."""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "agent.yaml").write_text(AGENT, encoding="utf-8")
    return tmp_path


def run(place, shell, *arguments, code=CODE, **environment):
    """``shell`` with the command in place of ``"$@"``."""
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", code, *arguments],
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


MAKE_A_KEY = ["keys", "create", "--name", "me", "--database", "sqlite+aiosqlite:///keys.db"]
LIST_KEYS = ["keys", "list", "--json", *MAKE_A_KEY[-2:]]


def test_no_key_is_made_if_standard_output_is_closed(place):
    done = run(place, '"$@" >&-', *MAKE_A_KEY)
    assert done.returncode == 1
    assert b"standard output is closed, and a key is shown only once: none was made." in done.stderr
    assert json.loads(run(place, '"$@"', *LIST_KEYS).stdout) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_key_that_could_not_be_written_is_revoked(place):
    done = run(place, '"$@" >/dev/full', *MAKE_A_KEY)
    assert done.returncode == 1
    [record] = json.loads(run(place, '"$@"', *LIST_KEYS).stdout)
    assert record["revoked"] is not None
    said = f"the key {record['id']} could not be written to standard output (No space left on device)"
    assert f"{said} and is revoked again; make another with grpo-host keys create" in done.stderr.decode()


def test_no_key_is_made_for_a_pipe_that_nobody_reads(place):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", CODE, *MAKE_A_KEY],
        cwd=place,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(write)
    assert done.returncode == 1
    assert b"none was made" in done.stderr


ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@pytest.mark.parametrize(
    ("command", "shell"),
    [
        ("eval", '"$@" >&- 2>&- <&-'),
        ("eval", '"$@" | true'),
        ("rollout", '"$@" >&-'),
        ("rollout", '"$@" 2>/dev/full'),
    ],
)
def test_nothing_that_is_printed_can_fail_a_command(place, shell, command):
    done = run(place, shell, *COMMANDS[command])
    if command == "rollout" and ">&-" in shell:
        assert done.returncode == 2
        said = b"error: standard output is closed, and trajectories would be lost; name a file with --out\n"
        assert done.stderr == said
        return
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    if command == "eval":
        (report,) = place.glob("runs/desk/evaluations/*/report.json")
        assert json.loads(report.read_text())["episodes"] == 2


@pytest.mark.parametrize("command", ["plugins", "check", "eval", "an error"])
def test_where_streams_know_only_ascii_nothing_is_lost(place, command):
    done = run(place, '"$@"', *COMMANDS[command], **ASCII)
    assert done.returncode == (2 if command == "an error" else 0), done.stderr
    assert b"Traceback" not in done.stderr
    if command == "check":
        assert rb"Gr\xfc\xdfe \u2192" in done.stdout or "Grüße → 日本".encode() in done.stdout


def test_lines_of_a_run_are_printed_where_streams_know_only_ascii(place):
    code = (
        "from grpo_host.cli.streams import lasting_streams\nfrom grpo_host.utils.progress import Reporter\n"
        r"with lasting_streams(): Reporter().line('0.3 \u2192 0.5 \u2581')"
    )
    done = run(place, '"$@"', code=code, **ASCII)
    assert (done.stdout, done.stderr) == (rb"0.3 \u2192 0.5 \u2581" + b"\n", b"")


@pytest.mark.parametrize(("command", "unbuffered"), [("eval", ""), ("plugins", "1")])
def test_a_full_output_is_an_error_when_all_is_done(place, command, unbuffered):
    done = run(place, '"$@" >/dev/full', *COMMANDS[command], PYTHONUNBUFFERED=unbuffered)
    said = b"error: cannot write to standard output: No space left on device; not all was printed\n"
    assert (done.returncode, done.stderr) == (2, said)
    if command == "eval":
        assert list(place.glob("runs/desk/evaluations/*/report.json")), "what it did is kept"


def test_the_first_lines_of_a_pipe_are_read_and_no_more_is_said(place):
    done = run(place, '"$@" | head -n 1', "rollout", "agent.yaml", "--episodes", "20", PYTHONUNBUFFERED="")
    assert json.loads(done.stdout)["id"].startswith("rollout/0/")
    assert b"Error" not in done.stderr


def test_a_file_does_not_take_the_place_of_a_closed_stream(place):
    code = (
        "import os\nfrom grpo_host.cli.streams import lasting_streams\n"
        "with lasting_streams():\n    file = open('file', 'wb')\nos.write(1, b'a library prints')\n"
    )
    done = run(place, '"$@" >&- 2>&- <&-', code=code)
    assert done.returncode == 0
    assert (place / "file").read_bytes() == b""


@pytest.mark.parametrize("command", ["models", "eval"])
def test_a_user_without_a_home_is_served(place, command):
    done = run(
        place, 'unset HOME USER LOGNAME; "$@"', *COMMANDS[command], code=ALONE + CODE, TMPDIR=str(place)
    )
    assert done.returncode == 0, done.stderr
    assert not (place / "~").exists()


def test_a_home_that_another_user_has_made_first_is_not_used(place):
    taken = place / f"grpo-home-{os.getuid()}"
    taken.symlink_to(place)
    code = ALONE + "from grpo_host.utils.paths import ensure_home; ensure_home(); print(os.environ['HOME'])"
    done = run(place, 'unset HOME; "$@"', code=code, TMPDIR=str(place))
    home = Path(done.stdout.decode().strip())
    assert home.parent == place
    assert home != taken
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("command", ["help", "plugins"])
def test_forty_columns_lose_nothing(place, command):
    wide = run(place, '"$@"', *COMMANDS[command], COLUMNS="300")
    narrow = run(place, '"$@"', *COMMANDS[command], COLUMNS="40")
    assert narrow.returncode == 0
    assert "".join(narrow.stdout.decode().split()) == "".join(wide.stdout.decode().split())
