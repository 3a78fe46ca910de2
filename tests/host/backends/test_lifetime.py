"""What a backend's plugin gets wrong: each is said with its line, and ends nothing else."""

from __future__ import annotations

import json

import pytest

from grpo_host.backends.lifetime import close_backends
from grpo_host.cli import main
from grpo_sdk.testing import ScriptedBackend

FILE = """
import sys
from grpo_sdk import Backend, Capability, ChatReply, assistant

class Fine(Backend):
    capabilities = frozenset({Capability.CHAT})

    async def chat(self, messages, sampling, tools=()):
        return ChatReply(assistant("4"))

class RaisesInStart(Fine):
    async def start(self):
        {}["port"]

class LeavesInStart(Fine):
    async def start(self):
        sys.exit(4)

class PlainStart(Fine):
    def start(self): ...

class NoSuper(Fine):
    def __init__(self, model): ...

class RaisesInClose(Fine):
    async def close(self):
        raise OSError("still busy")

class LeavesInClose(Fine):
    async def close(self):
        sys.exit(6)

class RaisesInChat(Fine):
    async def chat(self, messages, sampling, tools=()):
        raise ValueError("no answer today")

class LeavesInChat(Fine):
    async def chat(self, messages, sampling, tools=()):
        sys.exit(5)

class GivesText(Fine):
    async def chat(self, messages, sampling, tools=()):
        return "4"

class GivesTextAsMessage(Fine):
    async def chat(self, messages, sampling, tools=()):
        return ChatReply("4")
"""


@pytest.fixture
def play(tmp_path, monkeypatch, capsys, caplog):
    """Play two episodes with a backend of FILE: the status, what was said, and the trajectories."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(FILE)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 2?"}\n' * 2)

    def play(name, agent="agent.yaml", episodes=2):
        (tmp_path / "agent.yaml").write_text(
            f"{{name: a, model: none, backend: './my.py:{name}', rewards: [length], "
            "environment: {name: dataset, options: {path: rows.jsonl, held_out_share: 0.0}}}\n"
        )
        status = main(["rollout", agent, "--episodes", str(episodes), "--out", "played.jsonl"])
        played = tmp_path / "played.jsonl"
        lines = played.read_text().splitlines() if played.exists() else []
        return status, capsys.readouterr().err + caplog.text, [json.loads(line) for line in lines]

    return play


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RaisesInStart", "error: backend \"RaisesInStart\": start(): KeyError: 'port' (test_"),
        ("LeavesInStart", 'error: backend "LeavesInStart": start(): SystemExit: 4 (test_'),
        ("PlainStart", 'start(): TypeError: it is a plain function; write "async def start"'),
        ("NoSuper", "my.py: its __init__ does not call super().__init__(model)"),
    ],
)
def test_a_backend_that_cannot_start_is_an_error_that_names_its_line(play, name, said):
    status, heard, played = play(name)
    assert (status, played) == (2, [])
    assert said in heard


@pytest.mark.parametrize(
    ("name", "said"), [("RaisesInClose", "OSError: still busy"), ("LeavesInClose", "SystemExit: 6")]
)
def test_finished_work_stays_finished_if_its_backend_cannot_close(play, name, said):
    status, heard, played = play(name)
    assert (status, [item["status"] for item in played]) == (0, ["completed"] * 2)
    assert f'backend "{name}": close(): {said}' in heard


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RaisesInChat", "ValueError: no answer today (test_"),
        ("LeavesInChat", "SystemExit: 5 (test_"),
        ("GivesText", "TypeError: it must return a ChatReply, not str"),
        ("GivesTextAsMessage", "TypeError: the message of a ChatReply is a message, such as"),
    ],
)
def test_an_episode_whose_backend_raises_or_answers_in_a_wrong_shape_fails_alone(play, name, said):
    _, _, played = play(name)
    assert [item["status"] for item in played] == ["failed"] * 2
    assert played[0]["error"].startswith(f'backend "{name}": chat(): {said}')


def test_what_a_judge_or_a_simulated_user_gets_wrong_is_its_own(play, tmp_path):
    (tmp_path / "user.yaml").write_text(
        "{name: a, model: none, backend: scripted, rewards: [length], environment: {name: prompts, options: "
        "{prompts: [Hi.], held_out: [Ho.], user: {name: './my.py:GivesText', model: none}}}}\n"
    )
    _, _, played = play("Fine", agent="user.yaml", episodes=1)
    assert played[0]["error"].startswith(
        'environment "prompts": step(): backend "GivesText": chat(): TypeError: it must return a ChatReply, not'
    )


async def test_of_several_that_are_closed_one_that_raises_keeps_none_from_it(caplog):
    class Stuck(ScriptedBackend):
        async def close(self):
            raise OSError("still busy")

    class Last(ScriptedBackend):
        async def close(self):
            closed.append(self)

    closed = []
    await close_backends(Stuck(), Last())

    assert len(closed) == 1
    assert 'backend "Stuck": close(): OSError: still busy (backends/test_lifetime.py:' in caplog.text
