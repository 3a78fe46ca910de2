"""The snippets of docs/langchain.md run as they are written, on a scripted model."""

from __future__ import annotations

import json
import re
from pathlib import Path

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda

from grpo_sdk import Capability, Trajectory

DOCUMENT = Path(__file__).parents[3] / "docs" / "langchain.md"


def test_the_documented_ways_to_embed_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "agent.yaml").write_text(
        "name: clerk\nmodel: any\nbackend: {name: scripted, options: {replies: [It leaves tomorrow.]}}\n"
        "environment: arithmetic\nrewards: [task_success]\n"
    )
    monkeypatch.chdir(tmp_path)
    section = DOCUMENT.read_text().partition("\n## Embed\n")[2].partition("\n## ")[0]
    model, agent, judge = re.findall(r"```python\n(.*?)```", section, re.DOTALL)

    names: dict[str, object] = {"__name__": "example"}
    for code in (model, agent, judge):
        exec(code, names)

    assert capsys.readouterr().out == "It leaves tomorrow.\nIt leaves tomorrow.\nIt leaves tomorrow."
    assert names["tool"].name == "clerk"
    assert {Capability.CHAT, Capability.TOOLS, Capability.STREAMING} <= names["judge"].capabilities


def test_the_documented_recording_runs(tmp_path, monkeypatch):
    section = DOCUMENT.read_text().partition("\n## Record an app in production\n")[2].partition("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    asked, _, later = code.partition("# Later")
    names: dict[str, object] = {
        "agent": RunnableLambda(
            lambda given: FakeListChatModel(responses=["Tomorrow."]).invoke(given["messages"])
        )
    }
    exec(asked, names)
    [line] = (tmp_path / "production.jsonl").read_text().splitlines()
    names["run_id"] = json.loads(line)["id"]
    exec(f"# {later}", names)

    [line] = (tmp_path / "production.jsonl").read_text().splitlines()
    trajectory = Trajectory.from_json(line.encode())
    assert trajectory.task.data == {"order_id": "A-17"}
    assert trajectory.recorded == {"helpful": 1.0}
