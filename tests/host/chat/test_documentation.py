"""The example of docs/chat.md runs as it is written, on a scripted model."""

from __future__ import annotations

import re
from pathlib import Path

import grpo_host.backends.local_model
from grpo_sdk import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

DOCUMENT = Path(__file__).parents[3] / "docs" / "chat.md"


def test_the_documented_chat_runs(tmp_path, monkeypatch, capsys):
    def script(messages, tools):
        if messages[-1]["role"] == "tool":
            return f"{messages[-1]['content']}."
        order = "A-17" if "A-17" in messages[-1]["content"] else "B-2"
        return assistant("", [tool_call("order_status", f'{{"order_id": "{order}"}}', "c")])

    real = grpo_host.backends.local_model.LocalModel
    monkeypatch.setattr(
        grpo_host.backends.local_model,
        "LocalModel",
        lambda name: real(name, backend=ScriptedBackend(script=script)),
    )
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    monkeypatch.setattr("grpo_host.chat.agent.LocalModel", real)
    exec(code, {"__name__": "example"})
    assert capsys.readouterr().out == "A-17 leaves tomorrow.\nB-2 leaves tomorrow."
    assert (tmp_path / "chats.db").exists()
