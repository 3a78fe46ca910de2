"""`grpo-host run` of an app that makes its own model: a process, a small random model, the real trainer.

Its warm start imitates what the app said in production, as far as people liked it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from grpo_host.cli import main
from grpo_host.langchain import TrajectoryRecorder, add_feedback
from grpo_host.runs.directory import RunDirectory
from grpo_sdk import Trajectory

pytestmark = [pytest.mark.model, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[3] / "examples" / "langchain_shop"
SMALL = {
    "backend": "{name: transformers}",
    "sampling.max_tokens": "12",
    "training.steps": "2",
    "training.tasks_per_step": "2",
    "training.group_size": "2",
    "training.micro_batch": "2",
    "training.warm_start.epochs": "1",
    "training.warm_start.batch": "2",
    "training.warm_start.min_reward": "0.5",
    "evaluation.episodes": "2",
}
NOISE = """\
from grpo_sdk import reward


@reward
def noise(trajectory) -> float:
    return sum(trajectory.ledger.sequences[-1].ids) % 97 / 97
"""
"""A reward that differs within a group: what a random model says is never right."""


LIKED = """\
rewards:
  - {name: recorded, options: {of: helpful}}
"""


class Hosted(GenericFakeChatModel):
    """A model of somebody else's, which calls a tool and then answers."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def says(order: str, answer: str) -> Iterator[AIMessage]:
    call = {"name": "lookup_order", "args": {"order_id": order}, "id": f"call_{order}", "type": "tool_call"}
    yield AIMessage("", tool_calls=[call])
    if not answer:
        raise TimeoutError("the provider is down")
    yield AIMessage(json.dumps({"order_id": order, "answer": answer}))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs of the shop's app in production: two were liked, one was not, and one failed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    app, orders = importlib.import_module("shop.app"), importlib.import_module("shop.orders")
    path = tmp_path / "production.jsonl"
    config = {"callbacks": [TrajectoryRecorder(path)]}
    customer = orders.Customer({"A1": {"status": "packed"}})
    for answer in ("It is packed.", "It is packed today.", "No idea.", ""):
        shop = app.build(Hosted(messages=says("A1", answer)))
        with suppress(TimeoutError):
            shop.invoke({"messages": [("human", "Where is A1?")]}, config, context=customer)
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]
    runs = [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]
    opinions = {run.id: {"helpful": float("packed" in run.final_text)} for run in runs}
    assert add_feedback(path, opinions) == 4
    return path


def test_an_app_is_trained_as_it_is_after_what_people_liked_of_it(
    recorded: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    scored, liked = tmp_path / "scored.jsonl", tmp_path / "liked.yaml"
    liked.write_text(LIKED)
    assert main(["score", str(recorded), "--rewards", str(liked), "--out", str(scored)]) == 0
    good = [run.id for line in scored.read_bytes().splitlines() if (run := Trajectory.from_json(line)).reward]
    assert len(good) == 2

    (tmp_path / "noise.py").write_text(NOISE)
    settings = {
        **SMALL,
        "rewards": f"[{tmp_path}/noise.py:noise]",
        "training.warm_start.dialogues": str(scored),
        "model.name": str(tiny_model_path),
        "output": str(tmp_path),
    }
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "grpo_host.cli", "run", str(EXAMPLE / "redirect.yaml"), *changes],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "none"},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [directory] = [path.parent for path in tmp_path.glob("*/*/report.json")]
    run = RunDirectory(directory)
    report = run.read_report()
    assert report["warm_start_demonstrations"] == 2
    imitated = (directory / "demonstrations.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in imitated) == sorted(good)
    steps = run.read_metrics()
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in steps)
    trained = [item for item in run.read_trajectories() if item.id[0].isdigit()]
    assert len(trained) == 2 * 2 * 2
    for item in trained:
        assert item.status in ("completed", "truncated"), item.error  # its JSON is cut as often as not
        assert item.ledger.sampled == sum(turn.completion_tokens for turn in item.turns) > 0
        assert {(sequence.role, sequence.weight) for sequence in item.ledger.sequences} == {("shop", 1.0)}
    assert json.loads((directory / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
