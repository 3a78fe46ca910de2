"""`grpo-host doctor` finds what is wrong with plugins and machine, and says what to do about each."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_host.checks import machine_health
from grpo_host.cli import main

REWARD = """
    from grpo_sdk import hookimpl, reward

    @reward
    def exact(trajectory) -> float:
        return 1.0

    @hookimpl
    def grpo_rewards():
        return {"exact": exact}
"""

Doctor = Callable[..., tuple[int, list[dict[str, str]]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Gives the exit status and the findings."""
    monkeypatch.chdir(tmp_path)

    def examine(*arguments: Any) -> tuple[int, list[dict[str, str]]]:
        status = main(["doctor", "--json", *map(str, arguments)])
        return status, json.loads(capsys.readouterr().out)

    return examine


def about(findings: list[dict[str, str]], subject: str) -> dict[str, str]:
    [found] = [finding for finding in findings if finding["subject"] == subject]
    return found


def test_every_finding_that_is_not_well_says_what_to_do(doctor: Doctor) -> None:
    _, findings = doctor()
    subjects = {finding["subject"] for finding in findings}
    assert {"python", "processor", "memory", "gpu", "dtype", "vllm", "port 8001"} <= subjects
    assert all(bool(finding["todo"]) == (finding["level"] != "ok") for finding in findings)


def test_what_is_well_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok       dtype ") and " auto is " in line for line in lines)
    assert lines[-1].startswith(f"{'0' if status == 0 else ''}")
    assert lines[-1].endswith(" warnings")


def test_a_broken_plugin_is_an_error_and_a_name_of_two_is_a_warning(doctor: Doctor, index: Any) -> None:
    index.install("acme", code=REWARD)
    index.install("best", code=REWARD)
    index.install("torn", code="import nowhere_at_all")
    status, findings = doctor()

    assert status == 1
    torn = about(findings, "plugin torn/code")
    assert torn["level"] == "error"
    assert "No module named 'nowhere_at_all'" in torn["says"]
    assert "pip uninstall torn" in torn["todo"]
    assert about(findings, "plugin acme/code")["says"].startswith("1.0, 1 of reward, ")
    double = about(findings, 'reward "exact"')
    assert (double["level"], double["todo"]) == (
        "warning",
        'write "acme:exact" or "best:exact" in agent.yaml',
    )


def test_a_port_that_is_taken_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "agent.yaml").write_text(
            "name: sums\nmodel: none\nbackend: scripted\nenvironment: arithmetic\nrewards: [task_success]\n"
            f"serving: {{port: {port}}}\n"
        )
        _, findings = doctor("agent.yaml")
    assert about(findings, f"port {port}")["says"] == f"127.0.0.1:{port} is taken"


def test_what_is_wrong_in_an_agent_yaml_is_an_error_with_its_line(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(
        "name: sums\nmodel: none\nbackend: scripted\nenvironment: arithmetic\nrewards: [task_succes]\n"
    )
    status, findings = doctor("agent.yaml")
    assert status == 1
    assert 'Did you mean "task_success"' in about(findings, "agent.yaml:5: rewards[0].name")["says"]


def test_a_database_that_does_not_answer_is_an_error_without_its_password(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRPO_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/nowhere/file.db")
    status, findings = doctor()
    said = about(findings, "database")
    assert (status, said["level"]) == (1, "error")
    assert "nowhere/file.db does not answer" in said["says"]
    assert said["todo"] == "mend GRPO_DATABASE_URL, or unset it to use SQLite"


def test_another_version_than_was_tested_is_an_error_with_the_command_that_mends_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = machine_health._version
    monkeypatch.setattr(machine_health, "_version", lambda name: "99.0" if name == "trl" else known(name))
    status, findings = doctor()
    said = about(findings, "trl")
    assert (status, said["says"]) == (1, "it is 99.0; tested is <1.17,>=1.16")
    assert said["todo"] == "pip install 'trl<1.17,>=1.16'"


@pytest.mark.parametrize(
    ("free", "level"), [(100.0, "ok"), (2.0, "warning"), (0.1, "error")], ids=["much", "little", "none"]
)
def test_a_full_disk_is_found_before_a_checkpoint_does(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: float, level: str
) -> None:
    usage = type("Usage", (), {"free": free * 2**30})
    monkeypatch.setattr(machine_health.shutil, "disk_usage", lambda path: usage)
    _, findings = doctor()
    assert about(findings, "disk for runs")["level"] == level
