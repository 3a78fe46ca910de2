"""OpenEnv's environments, with openenv's own client and servers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from grpo_environments.bridges import environment as bridged
from grpo_environments.bridges.openenv import OpenEnvEnvironment
from grpo_sdk.messages import assistant


@pytest.mark.slow  # openenv takes some seconds to import
async def test_an_answer_is_an_action_of_the_environment_that_openenv_writes(venv, tmp_path):
    init_echo(venv("openenv"), tmp_path)
    environment = OpenEnvEnvironment(
        app="server.app:app", directory=tmp_path / "echo", show="echoed_message", venv=venv("openenv")
    )
    opening = await environment.reset(environment.tasks("train")[0], seed=0)
    said = ["hello", '{"message": "x"}', '{"other": 1}']
    results = [await environment.step(assistant(text)) for text in said]
    outcome = environment.outcome()
    await environment.close()

    assert opening.messages[0]["content"] == "Each of your answers is an action: Message to echo back."
    assert opening.messages[1]["content"] == "Echo environment ready!"
    shown = [result.messages[0]["content"] for result in results]
    assert shown[:2] == ["hello", "x"]
    assert shown[2].startswith("That is no action: ")
    assert [result.reward for result in results] == [0.5, 0.1, 0.0]
    assert outcome == {"success": True, "score": 0.6, "steps": 2}


@pytest.mark.slow
async def test_an_environment_of_tools_gives_them_to_the_agent(venv, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):  # which does not know this machine's servers
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment = OpenEnvEnvironment(
        app="openenv_counter",
        directory=Path(__file__).parent,
        reset={"start": 2},
        instructions="Count.",
        venv=venv("openenv"),
    )
    opening = await environment.reset(environment.tasks("train")[0], seed=0)
    [add] = environment.tools()
    counted, refused = await add.run({"number": 3}), await add.run({"number": "x"})
    result = await environment.step(assistant("Done."))
    await environment.close()

    assert [message["content"] for message in opening.messages] == ["Count.", "Begin."]
    assert add.schema["function"]["parameters"]["properties"] == {"number": {"type": "integer"}}
    assert counted == 5
    assert refused.startswith("Error: ")
    assert (result.done, result.reward) == (True, 1.0)
    assert result.outcome == {"success": True, "score": 1.0, "steps": 2}


def init_echo(venv: Path, directory: Path) -> None:
    """OpenEnv's own new environment."""
    subprocess.run([venv / "bin" / "openenv", "init", "echo"], cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "name either url, a server that runs, or app"),
        ({"url": "http://127.0.0.1:1", "app": "server.app:app"}, "name either url"),
        ({"url": "file:///etc"}, "url: file:///etc begins with neither http:// nor https://"),
    ],
)
def test_an_address_or_an_app_has_to_be_named(options, said):
    with pytest.raises(ValueError, match=said):
        OpenEnvEnvironment(**options)


def test_another_task_seed_makes_other_tasks(monkeypatch):
    monkeypatch.setattr(bridged, "library", lambda *_: None)  # tasks are made without it
    first, other = [
        OpenEnvEnvironment(url="http://127.0.0.1:9", task_seed=seed).tasks("train") for seed in (0, 1)
    ]
    assert [task.data for task in first] != [task.data for task in other]
