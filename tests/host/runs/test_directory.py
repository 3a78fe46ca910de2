from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.runs import directory as module
from grpo_host.runs.directory import RunDirectory
from grpo_sdk.errors import RunError
from grpo_sdk.testing import make_trajectory


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(tmp_path, "desk")
    made.agent_yaml.write_text("name: desk\n")
    yield made
    made.release()


def trajectory(number):
    return dataclasses.replace(make_trajectory("Hello"), id=str(number))


def ids(directory):
    return [item.id for item in directory.read_trajectories()]


def test_a_run_lies_under_its_agent_by_time(directory, tmp_path):
    assert directory.path.parent == tmp_path / "desk"
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", directory.path.name)
    assert {
        path.name
        for path in (
            directory.agent_yaml, directory.metrics, directory.trajectories,
            directory.checkpoints, directory.adapter, directory.report,
        )
    } == {"agent.yaml", "metrics.jsonl", "trajectories.jsonl", "checkpoints", "adapter", "report.json"}  # fmt: skip


class Clock(datetime.datetime):
    """One that stands, wherever it is asked."""

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2026, 3, 29, 0, 30, tzinfo=datetime.UTC).astimezone(tz)


@pytest.mark.parametrize(
    ("there", "made"),
    [
        ([], "20260329-003000"),
        (["20260101-000000-ffff", "notes"], "20260329-003000"),
        (["20260329-003000-ffff"], "20260329-003001"),
        (["20260329-023000-ffff", "20260101-000000-ffff"], "20260329-023001"),
    ],
    ids=["the first", "a later", "within a second", "after the clock went back"],
)
def test_the_last_that_began_is_the_last_by_its_name_which_is_in_utc(tmp_path, monkeypatch, there, made):
    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setenv("TZ", "America/New_York")
    for name in there:
        (tmp_path / "desk" / name).mkdir(parents=True)
    begun = RunDirectory.create(tmp_path, "desk")
    begun.release()
    assert begun.path.name[:15] == made


def test_a_directory_that_cannot_be_made_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make the run directory .*Not a directory; set output"):
        RunDirectory.create(tmp_path / "file", "desk")


def test_a_directory_in_use_by_another_process_is_refused(directory):
    directory.release()
    code = (
        "import sys; from pathlib import Path; from grpo_host.runs.directory import RunDirectory\n"
        f"held = RunDirectory(Path({str(directory.path)!r})).acquire(); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"is in use by another process; wait .* without --resume"):
            RunDirectory(directory.path).acquire()
        other.kill()
        other.communicate()
    directory.acquire()  # What a killed process held is free.


def test_the_latest_run_is_found(tmp_path):
    for run_id in ("20260101-000000-aaaa", "20260301-000000-0000", "20260201-000000-ffff"):
        (tmp_path / "desk" / run_id).mkdir(parents=True)
        (tmp_path / "desk" / run_id / "agent.yaml").write_text("")
    (tmp_path / "desk" / "20270101-000000-aaaa").mkdir()  # has no agent.yaml: never began
    assert RunDirectory.find(tmp_path, "desk").path.name == "20260301-000000-0000"
    assert RunDirectory.find(tmp_path, "desk", "20260101-000000-aaaa").path.name == "20260101-000000-aaaa"


def test_the_latest_trained_run_is_not_one_that_still_runs(tmp_path):
    for run_id in ("20260101-000000-aaaa", "20260301-000000-0000"):
        (tmp_path / "desk" / run_id).mkdir(parents=True)
        (tmp_path / "desk" / run_id / "agent.yaml").write_text("name: desk\n")
    (tmp_path / "desk" / "20260101-000000-aaaa" / "adapter").mkdir()

    assert RunDirectory.find(tmp_path, "desk", trained=True).path.name == "20260101-000000-aaaa"
    assert RunDirectory.find(tmp_path, "desk").path.name == "20260301-000000-0000"


def test_a_run_is_found_by_its_path(directory, tmp_path):
    assert RunDirectory.find(tmp_path / "elsewhere", "x", str(directory.path)).path == directory.path


def test_a_run_that_is_not_there_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(RunError, match=r"desk holds no run yet; start one with grpo-host run"):
        RunDirectory.find(tmp_path, "desk")
    with pytest.raises(RunError, match=r"no run at nowhere or .*desk/nowhere"):
        RunDirectory.find(tmp_path, "desk", "nowhere")


def test_a_report_is_replaced_whole_or_not_at_all(directory, monkeypatch):
    directory.write_json(directory.report, {"before": 1})

    def crash(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(RunError, match=r"cannot write .*report.json: No space left on device; .*--resume"):
        directory.write_json(directory.report, {"before": 2})
    assert directory.read_report() == {"before": 1}


def test_a_report_that_is_not_there_is_empty(directory):
    assert directory.read_report() == {}
    directory.report.write_text("[]")
    assert directory.read_report() == {}


def test_metrics_come_back_without_a_half_last_line(directory):
    directory.append_metrics({"step": 1, "reward": 0.5})
    directory.append_metrics({"step": 2, "note": "naïve"})
    with directory.metrics.open("a") as file:
        file.write('{"step": 3, "rew')
    assert directory.read_metrics() == [{"step": 1, "reward": 0.5}, {"step": 2, "note": "naïve"}]


def test_metrics_that_are_not_there_are_none(directory):
    assert directory.read_metrics() == []


def test_metrics_after_a_step_are_forgotten(directory):
    for step in (1, 2, 3, 4):
        directory.append_metrics({"step": step})
    with directory.metrics.open("a") as file:
        file.write('{"step": 5')
    directory.forget_after(2)
    directory.append_metrics({"step": 3, "again": True})
    assert directory.read_metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    directory.forget_after(0)
    assert directory.metrics.read_text() == ""


@pytest.mark.parametrize("rotate_bytes", [1, 2_000, 10**6], ids=["each alone", "a few a file", "one file"])
def test_episodes_after_a_step_are_forgotten_and_others_kept(directory, monkeypatch, rotate_bytes):
    monkeypatch.setattr(module, "ROTATE_BYTES", rotate_bytes)
    played = ["before/t1", "1/t1/0", "1/t1/1", "2/t1/0", "3/t1/0", "3/t2/0", "4/t1/0", "after/t1"]
    for name in played:
        directory.append_trajectory(trajectory(name))
    directory.forget_after(2, {"before", "after"})
    assert ids(directory) == ["before/t1", "1/t1/0", "1/t1/1", "2/t1/0", "after/t1"]
    directory.append_trajectory(trajectory("3/t1/0"))
    assert ids(directory)[-1] == "3/t1/0"


@pytest.mark.parametrize("rotate_bytes", [1, 10**6], ids=["each alone", "one file"])
def test_episodes_of_evaluations_that_were_not_finished_are_forgotten(directory, monkeypatch, rotate_bytes):
    monkeypatch.setattr(module, "ROTATE_BYTES", rotate_bytes)
    played = ["before/t1", "1/t1/0", "2/t1/0", "step-2/t1", "3/t1/0", "step-3/t1", "step-3/t2"]
    for name in played:
        directory.append_trajectory(trajectory(name))
    directory.forget_after(2, {"before", "step-2"})
    assert ids(directory) == ["before/t1", "1/t1/0", "2/t1/0", "step-2/t1"]
    directory.forget_after(0)
    assert ids(directory) == []


def test_trajectories_come_back_as_they_were(directory):
    for number in range(3):
        directory.append_trajectory(trajectory(number))
    assert list(directory.read_trajectories()) == [trajectory(number) for number in range(3)]


def test_trajectories_can_be_read_while_one_is_being_written(directory):
    directory.append_trajectory(trajectory(0))
    with directory.trajectories.open("ab") as file:
        file.write(trajectory(1).to_json()[:40])
        file.flush()
        assert ids(RunDirectory(directory.path)) == ["0"]


@pytest.mark.parametrize("name", ["metrics", "trajectories"])
def test_a_half_line_of_a_crash_does_not_spoil_the_next_one(directory, name):
    directory.append_metrics({"step": 1})
    directory.append_trajectory(trajectory(0))
    with getattr(directory, name).open("ab") as file:
        file.write(b'{"id": "hal')
    directory.release()
    again = RunDirectory(directory.path).acquire()
    again.append_metrics({"step": 2})
    again.append_trajectory(trajectory(1))
    assert again.read_metrics() == [{"step": 1}, {"step": 2}]
    assert ids(again) == ["0", "1"]
    again.release()


def test_a_full_file_is_compressed_and_read_back_in_order(directory, monkeypatch):
    monkeypatch.setattr(module, "ROTATE_BYTES", 3 * len(trajectory(0).to_json()))
    for number in range(10):
        directory.append_trajectory(trajectory(number))
    packed = sorted(path.name for path in directory.path.glob("*.gz"))
    assert packed == [f"trajectories.{number:04d}.jsonl.gz" for number in range(1, len(packed) + 1)]
    assert len(packed) >= 3
    assert ids(directory) == [str(number) for number in range(10)]
    assert ids(RunDirectory(directory.path)) == [str(number) for number in range(10)]
    assert not list(directory.path.glob("*.partial"))


@pytest.mark.parametrize("at", ["replace", "touch", "unlink"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_crash_while_a_file_is_compressed_neither_loses_nor_doubles_an_episode(
    tmp_path, monkeypatch, at, which
):
    """Wherever it comes: before or after the file gets its new name, its compressed form, or goes."""

    class Crash(BaseException):
        pass

    made = RunDirectory.create(tmp_path, "desk")
    monkeypatch.setattr(module, "ROTATE_BYTES", 3 * len(trajectory(0).to_json()))
    for number in range(2):
        made.append_trajectory(trajectory(number))
    calls = []
    inner = getattr(Path, at)

    def crash(*arguments):
        calls.append(arguments)
        if len(calls) == which + 1:
            raise Crash
        return inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, at, crash)
        with contextlib.suppress(Crash):
            made.append_trajectory(trajectory(2))
    made.release()
    assert ids(RunDirectory(made.path)) == ["0", "1", "2"], "also for one who only reads"
    again = RunDirectory(made.path).acquire()
    assert ids(again) == ["0", "1", "2"]
    assert not list(made.path.glob("trajectories.0*.jsonl"))
    again.append_trajectory(trajectory(3))
    assert ids(again) == ["0", "1", "2", "3"]
    again.release()


@pytest.mark.parametrize(
    "damage", [b"\0" * 200 + b"\n", b'{"step": 2, "rew\0\0\n', b"[]\n", b"\xff\n", b"\n"]
)
def test_a_damaged_line_is_named_and_the_others_are_kept(directory, caplog, damage):
    for number in (1, 3):
        directory.append_metrics({"step": number})
        directory.append_trajectory(trajectory(f"{number}/t/0"))
    for path in (directory.metrics, directory.trajectories):
        first, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + damage + last)
    assert directory.read_metrics() == [{"step": 1}, {"step": 3}]
    assert ids(directory) == ["1/t/0", "3/t/0"]
    for path in (directory.metrics, directory.trajectories):
        assert f"{path}:2: a damaged line is left out: " in caplog.text
    directory.forget_after(2)
    assert directory.read_metrics() == [{"step": 1}]
    assert ids(directory) == ["1/t/0"]


def test_a_packed_file_that_was_cut_is_named_and_read_as_far_as_it_goes(directory, monkeypatch, caplog):
    monkeypatch.setattr(module, "ROTATE_BYTES", 50 * len(trajectory(0).to_json()))
    for number in range(60):
        directory.append_trajectory(trajectory(f"{number}/t/0"))
    (packed,) = directory.path.glob("*.gz")
    packed.write_bytes(packed.read_bytes()[:-100])
    read = ids(directory)
    assert read[-1] == "59/t/0"
    assert 10 < len(read) < 60
    assert f"{packed} is damaged from line " in caplog.text


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, b'{"before": ', b"\xff"])
def test_a_damaged_report_is_named_and_counts_as_none(directory, caplog, damage):
    directory.report.write_bytes(damage)
    assert directory.read_report() == {}
    assert f"{directory.report} is damaged, and what it said is lost: " in caplog.text


def test_a_full_disk_is_an_error_that_says_what_to_do(directory, monkeypatch):
    directory.append_trajectory(trajectory(0))
    directory.append_metrics({"step": 1})

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(
            RunError, match=r"cannot write .*metrics.jsonl: No space left on device; .*is kept"
        ):
            directory.append_metrics({"step": 2})
        with pytest.raises(RunError, match=r"cannot write .*trajectories.jsonl: .*Make room and run again"):
            directory.append_trajectory(trajectory(1))
    assert ids(directory) == ["0"]
    assert directory.read_metrics() == [{"step": 1}]


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Make room"),
        (RuntimeError('IoError(Os { code: 28, message: "No space left on device" })'), "Make room"),
        (PermissionError(errno.EACCES, "Permission denied"), "Mend that"),
        (ValueError("GenerationConfig is invalid"), "Mend that"),
    ],
)
def test_room_is_to_be_made_only_on_a_full_disk(tmp_path, problem, says):
    assert module.remedy(problem, tmp_path / "not" / "there") == says
    around = RuntimeError("cannot save")
    around.__cause__ = problem
    assert module.remedy(around, tmp_path) == says


def test_a_disk_without_room_is_full_whatever_its_writer_says(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FULL_BYTES", 2**62)
    assert module.remedy(RuntimeError("file write failed"), tmp_path) == "Make room"


def test_the_report_is_json_that_others_can_read(directory):
    directory.write_json(directory.report, {"agent": "naïve", "held_out": True})
    assert json.loads(directory.report.read_bytes()) == {"agent": "naïve", "held_out": True}


def test_recorded_tokens_of_steps_that_are_repeated_are_forgotten(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (1, 2):
        run.append_tokens({"id": f"{step}/t/0", "step": step})
    run.forget_after(1)
    assert run.tokens.read_text() == '{"id": "1/t/0", "step": 1}\n'
