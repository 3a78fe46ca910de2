from __future__ import annotations

import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from grpo_host.utils import atomic
from grpo_host.utils.atomic import append_whole, replace_directory, replaced_when_done, write_text


def test_a_text_is_written_in_unicode(tmp_path):
    write_text(tmp_path / "a", "naïve 日本\n")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "naïve 日本\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def directory(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


def no_exchange(*_):
    raise OSError(22, "Invalid argument")


@pytest.mark.parametrize("exchanges", [True, False], ids=["names are exchanged", "as on NFS"])
@pytest.mark.parametrize("there", [True, False], ids=["an old one", "none yet"])
def test_a_directory_takes_the_place_of_another_and_nothing_else_is_left(
    tmp_path, monkeypatch, exchanges, there
):
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", no_exchange)
    if there:
        directory(tmp_path / "adapter", "old")
    replace_directory(tmp_path / "adapter", directory(tmp_path / "new", "new"))
    assert (tmp_path / "adapter" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_directory_is_there_at_every_moment_while_it_is_replaced(tmp_path):
    """Whatever a crash leaves: a process is killed at each of its calls that change names."""
    try:
        atomic._exchange(directory(tmp_path / "one", "1"), directory(tmp_path / "other", "2"))
    except OSError as problem:
        pytest.skip(f"the file system of {tmp_path} exchanges no names: {problem}")
    code = """
import os, sys
from pathlib import Path
from grpo_host.utils.atomic import replace_directory
import grpo_host.utils.atomic as replacing

calls = 0
def audit(event, arguments):
    global calls
    if event in {"os.rename", "shutil.rmtree", "os.remove", "os.rmdir"}:
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
sys.addaudithook(audit)
replace_directory(Path(sys.argv[1], "adapter"), Path(sys.argv[1], "new"))
"""
    for call in range(1, 20):
        place = tmp_path / str(call)
        place.mkdir()
        directory(place / "adapter", "old")
        directory(place / "new", "new")
        done = subprocess.run([sys.executable, "-c", code, str(place), str(call)])
        assert (place / "adapter" / "file").read_text() in {"old", "new"}
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert call > 1, "it was killed at least once"
    assert done.returncode == 0


def test_what_fails_half_way_leaves_the_old_directory(tmp_path):
    directory(tmp_path / "model", "old")
    with suppress(RuntimeError), replaced_when_done(tmp_path / "model") as partial:
        (partial / "file").write_text("half")
        raise RuntimeError
    assert (tmp_path / "model" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_line_that_the_disk_refuses_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert append_whole(path, b"one\n") == 4
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, hard))  # bytes that a file may have
    try:
        with pytest.raises(OSError, match="File too large"):
            append_whole(path, b"a second line\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"one\n"
    assert append_whole(path, b"two\n") == 8
    assert path.read_bytes() == b"one\ntwo\n"
