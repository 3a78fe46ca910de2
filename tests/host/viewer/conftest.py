"""Runs' directories written by hand, with the classes that a run writes them with."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from grpo_host.runs.directory import RunDirectory
from grpo_host.viewer.app import create_app
from grpo_sdk.trajectory import (
    Ledger,
    MessageSpan,
    RewardRecord,
    StopReason,
    Task,
    TokenSequence,
    ToolRun,
    Trajectory,
    Turn,
)

AGENT_YAML = """\
name: {name}
model: {{name: no-such-model}}
environment: {{name: shop}}
training: {{steps: 4, group_size: 2, tasks_per_step: 1, learning_rate: {rate}}}
"""


def _episode(
    label: str,
    task: str,
    sample: int | None = None,
    *,
    reward: float | None = 1.0,
    said: str = "It is shipped.",
    status: Any = "completed",
    tool_error: str | None = None,
    split: str = "train",
    success: bool | None = None,
    finish: str = "stop",
) -> Trajectory:
    """An episode of one question, one look-up and one answer."""
    ids = [1, 2, 3, 4, 5, 6]
    return Trajectory(
        id=f"{label}/{task}" if sample is None else f"{label}/{task}/{sample}",
        environment="shop",
        task=Task(task, split=split),
        status=status,
        stop_reason=StopReason.DONE,
        messages=[
            {"role": "system", "content": "You help."},
            {"role": "user", "content": f"Where is {task}?"},
            {"role": "assistant", "content": said},
        ],
        turns=[Turn(3, 3, 0.1, finish, [ToolRun("lookup", "c1", 0.1, tool_error)])],
        ledger=Ledger(
            [
                TokenSequence(
                    ids,
                    [0, 0, 0, 1, 1, 1],
                    [0.0, 0.0, 0.0, -0.1, -0.2, -0.3],
                    [-1, -1, -1, 3, 3, 3],
                    [MessageSpan(0, 1, "system"), MessageSpan(1, 3, "user"), MessageSpan(3, 6, "assistant")],
                )
            ]
        ),
        outcome={} if success is None else {"success": success},
        rewards={"right": RewardRecord(reward)},
        reward=reward,
        sample=sample or 0,
    )


def _make_run(
    output: Path, run_id: str = "20261128-100000-aaaa", *, name: str = "shop", rate: float = 0.1
) -> RunDirectory:
    """A run's directory with its settings and nothing else."""
    directory = RunDirectory(output / name / run_id)
    directory.path.mkdir(parents=True)
    directory.agent_yaml.write_text(AGENT_YAML.format(name=name, rate=rate))
    (directory.path / ".lock").touch()
    return directory


@pytest.fixture(scope="session")
def write_run() -> Callable[..., RunDirectory]:
    """Makes an empty run in a directory."""
    return _make_run


@pytest.fixture(scope="session")
def episode() -> Callable[..., Trajectory]:
    """Makes an episode."""
    return _episode


@pytest.fixture
def make_run(output: Path) -> Callable[..., RunDirectory]:
    """Makes an empty run."""
    return partial(_make_run, output)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where runs lie."""
    return tmp_path / "runs"


@pytest.fixture
def run(output: Path) -> RunDirectory:
    """A finished run of two steps: a held-out task before and after, a group of two in each step."""
    directory = _make_run(output)
    measured = {"split": "held_out", "episodes": 1, "failed": 0, "success": None}
    directory.write_json(
        directory.report,
        {
            "before": {**measured, "reward": {"mean": 0.1, "low": 0.0, "high": 0.2}},
            "after": {**measured, "reward": {"mean": 0.9, "low": 0.8, "high": 1.0}},
            "steps": 2,
        },
    )
    directory.append_trajectory(
        _episode("before", "h-1", reward=0.1, said="I do not know.", split="held_out")
    )
    for step in (1, 2):
        directory.append_metrics({"step": step, "time": 0.0, "reward": 0.5, "entropy": 1.0 / step})
        directory.append_trajectory(_episode(str(step), "t-1", 0, reward=1.0, success=True))
        directory.append_trajectory(
            _episode(
                str(step), "t-1", 1, reward=0.0, said="Perhaps delayed?", tool_error="no such order",
                finish="length" if step == 2 else "stop",
            )
        )  # fmt: skip
    directory.append_trajectory(_episode("after", "h-1", reward=0.9, split="held_out"))
    return directory


class Viewer:
    """Asks a viewer of the runs in a directory."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str, answers: int = 200, **query: Any) -> Any:
        """The JSON of an answer with this status."""
        answer = self.client.get(path, params=query or None)
        assert answer.status_code == answers, answer.text
        return answer.json()

    def indexed(self, run_id: str) -> dict[str, Any]:
        """The run's page, once all that there is is indexed."""
        for _ in range(500):
            shown: dict[str, Any] = self.get(f"/api/runs/{run_id}")
            if shown["index"]["state"] == "ready":
                return shown
            time.sleep(0.01)
        raise AssertionError("the index is not ready after five seconds")


@pytest.fixture
def viewer(output: Path) -> Any:
    """Opened without a token."""
    with TestClient(create_app(output)) as client:
        yield Viewer(client)


PATIENCE = 60_000
"""Milliseconds: what a test waits for comes at once, but not on a machine that does eight things."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for a file's tests: while it is there, the thread counts as one with an event loop."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    sync_api.expect.set_options(timeout=PATIENCE)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """What goes wrong in the page, as its console has it; what is left at the end fails the test."""
    return []


@pytest.fixture
def page(browser: Any, problems: list[str]) -> Iterator[Any]:
    """A tab."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert not problems, "a strict policy, and no error: " + "; ".join(problems)


@pytest.fixture
def faults(page) -> Callable[..., list[str]]:
    """Asks axe for the serious faults of the page as it is; ``rules``: of these alone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def ask(rules: list[str] | None = None) -> list[str]:
        # Without what is right, which of hundreds of tokens is most of axe's answer.
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        found = axe.run(page, options=options | ({"runOnly": rules} if rules else {})).response["violations"]
        return [
            f"{fault['id']} at {fault['nodes'][0]['html'][:200]}"
            for fault in found
            if fault["impact"] in ("serious", "critical", "moderate")
        ]

    return ask


@pytest.fixture(scope="session")
def listening() -> Callable[[Any], AbstractContextManager[str]]:
    """``with listening(app) as address``: a server in a thread."""

    @contextmanager
    def listen(app: Any) -> Iterator[str]:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        server.should_exit = True
        server.force_exit = True
        thread.join(20)

    return listen
