"""The snippets of docs/langchain.md run as they are written, on a scripted model."""

from __future__ import annotations

import json
import re
from pathlib import Path

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda

from grpo_host.assembly.from_yaml import build_environment, build_reward
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_sdk import Capability, Trajectory, assistant, user
from grpo_sdk.trajectory import StopReason

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


def test_the_documented_check_of_an_answer_is_a_reward(tmp_path, monkeypatch):
    section = DOCUMENT.read_text().partition("\n## Train an existing app\n")[2].partition("\n## ")[0]
    [code] = [code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "def right" in code]
    settings = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[1]
    (tmp_path / "right.py").write_text(code)
    questions = [{"prompt": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    path = tmp_path / "agent.yaml"
    path.write_text(f"name: sums\nmodel: any\nbackend: scripted\n{settings}")
    registry = load_plugins()
    resolved = resolve(load_config(path, registry=registry), registry)

    [task] = build_environment(resolved)().tasks("held_out")
    said = [user(task.data["prompt"]), assistant(f"It is {task.data['answer']}.")]
    trajectory = Trajectory("t", "dataset", task, "completed", StopReason.DONE, said)
    assert build_reward(resolved, 0).reward.score(trajectory) == 1.0
