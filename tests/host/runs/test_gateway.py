"""``grpo-host gateway`` answers an app and writes what it was asked."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from grpo_host.cli import main
from grpo_host.runs import gateway
from grpo_sdk.trajectory import Trajectory

AGENT = """\
name: clerk
model: any
backend: {name: scripted, options: {replies: [It leaves tomorrow.]}}
environment: arithmetic
rewards: [task_success]
"""


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """What is asked while it waits: each of the last ``times`` keys that it printed is used once."""
    (tmp_path / "agent.yaml").write_text(AGENT)
    monkeypatch.chdir(tmp_path)

    def asks(times: int) -> None:
        def wait() -> None:
            shown = capsys.readouterr().err
            [url] = re.findall(r"OPENAI_BASE_URL=(\S+)", shown)
            for key in re.findall(r"OPENAI_API_KEY=(\S+)", shown)[:times]:
                body = {"model": "desk", "messages": [{"role": "user", "content": "When?"}]}
                headers = {"Authorization": f"Bearer {key}"}
                request = urllib.request.Request(
                    url + "/chat/completions", json.dumps(body).encode(), headers
                )
                with urllib.request.urlopen(request) as answer:
                    assert json.load(answer)["choices"][0]["message"]["content"] == "It leaves tomorrow."

        monkeypatch.setattr(gateway, "_wait", wait)

    return asks


def test_each_key_that_was_used_is_a_trajectory(asked, tmp_path, capsys):
    asked(2)
    assert main(["gateway", "agent.yaml", "--keys", "3", "--out", "tried.jsonl"]) == 0
    first, second = (
        Trajectory.from_json(line) for line in (tmp_path / "tried.jsonl").read_bytes().splitlines()
    )
    assert (first.id, second.id) == ("gateway/0", "gateway/1")
    assert [message["content"] for message in first.messages] == ["When?", "It leaves tomorrow."]
    shown = capsys.readouterr().err
    assert "key 1: 1 calls; the backend tells no tokens" in shown
    assert "key 3: no call" in shown


def test_a_file_that_holds_something_is_not_overwritten(asked, tmp_path, capsys):
    (tmp_path / "gateway.jsonl").write_text("{}\n")
    assert main(["gateway", "agent.yaml"]) == 2
    assert "holds something already" in capsys.readouterr().err
