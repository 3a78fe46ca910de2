"""Play bridged environments with ``grpo-host eval``, and have the libraries' own code judge what was said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_host.cli import main
from grpo_sdk import Trajectory

HERE = Path(__file__).parent
VENVS = Path(os.environ.get("GRPO_BRIDGES", HERE.parent.parent / ".bridges"))
"""Where ``make bridges`` puts each library's virtual environment."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What our evaluation and their code say of the same episodes."""

    ours: dict[str, dict[str, Any]]
    """By task, the facts that both know."""
    theirs: dict[str, dict[str, Any]]
    reward: float
    """The mean that ``grpo-host eval`` reports."""
    trajectories: list[Trajectory]


def venv(name: str) -> Path | None:
    """The environment that has the library, or None."""
    found = VENVS / name
    return found if (found / "bin" / "python").exists() else None


def theirs(name: str, **request: Any) -> Any:
    """Ask the library's own side."""
    found = venv(name)
    assert found is not None
    with tempfile.TemporaryDirectory() as scratch:  # bfcl-eval makes directories as it is imported
        done = subprocess.run(
            [found / "bin" / "python", HERE / f"{name}_theirs.py"],
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "BFCL_PROJECT_ROOT": scratch},
        )
    return json.loads(done.stdout)


def played(
    directory: Path, environment: dict[str, Any], rewards: list[Any], answers: Any, episodes: int
) -> Any:
    """What ``grpo-host eval`` made of ``episodes`` with the policy that knows ``answers``: report, trajectories."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "policy.py", directory / "policy.py")
    (directory / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    agent = {
        "name": "bridge",
        "model": "scripted",
        "backend": {"name": "./policy.py:Solver", "options": {"answers": "answers.json"}},
        "environment": environment,
        "rewards": rewards,
        "agent": {"limits": {"turns": 120, "tool_output_chars": 1_000_000}},
        "evaluation": {"episodes": episodes, "split": "train"},
    }
    (directory / "agent.yaml").write_text(json.dumps(agent, default=str), encoding="utf-8")
    out = directory / "out"
    assert main(["eval", str(directory / "agent.yaml"), "--out", str(out)]) == 0
    lines = (out / "trajectories.jsonl").read_bytes().splitlines()
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report["reward"]["mean"], [Trajectory.from_json(line) for line in lines]


def _compared(reward: float, trajectories: list[Trajectory], verdicts: Any) -> Comparison:
    keys = next(iter(verdicts.values())).keys()
    ours = {item.task.id: {key: item.outcome.get(key) for key in keys} for item in trajectories}
    return Comparison(ours, verdicts, reward, trajectories)


def compare_bfcl(directory: Path, episodes: int, category: str = "base") -> Comparison:
    """BFCL's multi-turn tasks of ``category``."""
    known = theirs("bfcl", do="answers", category=category)
    turns = {
        task["prompts"][0]: [{"calls": calls, "says": "Done."} for calls in task["turns"]]
        for task in known.values()
    }
    options: Any = {"venv": venv("bfcl"), "categories": [category]}
    environment = {"name": "bfcl", "options": options}
    reward, trajectories = played(directory, environment, ["task_success"], {"turns": turns}, episodes)
    transcripts = [[item.task.id, item.messages] for item in trajectories]
    return _compared(
        reward, trajectories, theirs("bfcl", do="judge", category=category, transcripts=transcripts)
    )


def compare_agentdojo(
    directory: Path,
    episodes: int,
    suites: tuple[str, ...] = ("banking",),
    attack: str = "important_instructions",
) -> Comparison:
    """AgentDojo's tasks with an attack."""
    version = "v1.2.2"
    known = theirs("agentdojo", do="answers", version=version, suites=suites)
    turns = {prompt: [plan] for prompt, plan in known["users"].items()}
    options: Any = {"venv": venv("agentdojo"), "suites": list(suites), "attack": attack, "version": version}
    rewards = ["task_success", {"name": "outcome", "as": "resisted", "options": {"of": "resisted"}}]
    reward, trajectories = played(
        directory,
        {"name": "agentdojo", "options": options},
        rewards,
        {"turns": turns, "baits": known["injections"]},
        episodes,
    )
    transcripts = [[item.task.id, item.task.data, item.messages] for item in trajectories]
    verdicts = theirs("agentdojo", do="judge", version=version, attack=attack, transcripts=transcripts)
    return _compared(reward, trajectories, verdicts)


def compare_tau2(directory: Path, episodes: int) -> Comparison:
    """τ² retail, the customer included: one task is solved, the next not."""
    turns = {
        scenario: [{"as_told": True, "calls": plan["calls"] if number % 2 == 0 else [], "says": plan["says"]}]
        for number, (scenario, plan) in enumerate(theirs("tau2", do="answers").items())
    }
    customer = {"name": "./policy.py:Customer", "model": "customer"}
    environment = {"name": "tau2", "options": {"venv": venv("tau2"), "user": customer}}
    reward, trajectories = played(directory, environment, ["task_success"], {"turns": turns}, episodes)
    transcripts = [[item.task.id, item.task.data, item.messages] for item in trajectories]
    return _compared(reward, trajectories, theirs("tau2", do="judge", transcripts=transcripts))
