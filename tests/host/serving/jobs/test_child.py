from __future__ import annotations

import subprocess
import sys

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.serving.jobs.child import wait_until_free
from grpo_host.serving.jobs.process import JobProcess, training_command
from grpo_host.serving.settings import DATABASE_URL
from grpo_sdk.errors import RunError


def test_the_process_of_a_job_begins_without_server_and_torch():
    code = (
        "import sys, grpo_host.serving.jobs.child\n"
        "print(sorted({'starlette', 'uvicorn', 'sqlalchemy', 'torch', 'trl'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said == "[]\n"


def test_its_command_has_the_servers_plugins_and_nothing_of_a_request(tmp_path):
    command = training_command(["rewards", "environments"])(tmp_path)

    assert command[:3] == [sys.executable, "-m", "grpo_host.serving.jobs.child"]
    assert command[-3:] == ["--plugins", "rewards,environments", str(tmp_path)]
    assert "--plugins" not in training_command(None)(tmp_path)


def test_a_run_directory_that_is_in_use_is_waited_for_and_not_for_ever(tmp_path):
    run = RunDirectory(tmp_path).acquire()
    with pytest.raises(RunError, match="in use by another process"):
        wait_until_free(RunDirectory(tmp_path), seconds=0.1)
    run.release()

    wait_until_free(RunDirectory(tmp_path), seconds=0.1)


def test_a_process_does_not_know_the_servers_database(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, "postgresql+asyncpg://grpo:password@db/grpo")
    monkeypatch.setenv("HF_HOME", "/models")
    process = JobProcess(["env"], tmp_path)
    while process.exit_code() is None:
        pass
    process.kill()

    said = (tmp_path / "job.log").read_text()
    assert "HF_HOME=/models" in said
    assert "password" not in said


def test_killing_a_process_ends_what_it_has_started(tmp_path):
    process = JobProcess(["sh", "-c", "sleep 60 & echo $!; wait"], tmp_path)
    while not (tmp_path / "job.log").read_text().endswith("\n"):
        assert process.exit_code() is None
    started = int((tmp_path / "job.log").read_text())
    process.kill()

    assert process.exit_code() == -9
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(started)], capture_output=True, text=True).stdout
    assert state[:1].strip() in ("", "Z"), "gone, or left for init to collect"


def test_only_what_the_last_attempt_said_is_its_error(tmp_path):
    def run(text):
        process = JobProcess(["sh", "-c", f"echo '{text}'; exit 2"], tmp_path)
        while process.exit_code() is None:
            pass
        process.kill()
        return process.error()

    assert run("error: the disk is full") == "the disk is full"
    assert run(f"noise\nerror: {tmp_path}/job.yaml:1: bad\nerror: worse") == "job.yaml:1: bad\nworse"
    assert run("nothing of use") is None
