"""The fixtures that plugins' tests are given, and what a user's pytest has to carry for them: nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_host.testing.host import PluginHost
from grpo_sdk import Sampling, user
from grpo_sdk.testing import ScriptedBackend, TokenBackend

AGENT = """
name: sums
model: none
environment: {name: arithmetic, options: {largest: 20, word_problems: 0}}
rewards: [task_success]
"""


async def test_a_scripted_backend_says_what_it_is_given(
    grpo_scripted_backend: Callable[..., ScriptedBackend],
) -> None:
    backend = grpo_scripted_backend("One.", "Two.")
    reply = await backend.chat([user("Count.")], Sampling())
    assert reply.message["content"] == "One."


async def test_a_token_backend_samples_ids_with_their_logprobs(grpo_token_backend: TokenBackend) -> None:
    prompt = grpo_token_backend.tokenizer.encode("Hi")
    reply = await grpo_token_backend.generate(prompt, Sampling(max_tokens=8, seed=1))
    assert 1 <= len(reply.ids) == len(reply.logprobs) <= 8


def test_a_host_plays_and_scores_what_an_agent_yaml_names(
    grpo_plugin_host: Callable[[str], PluginHost], tmp_path: Path
) -> None:
    agent = tmp_path / "agent.yaml"
    agent.write_text(AGENT)
    host = grpo_plugin_host("grpo-agent-framework")

    assert not host.check(agent, overrides=["backend=scripted"]).problems
    played = host.play(agent, "I do not know.", episodes=2)
    assert [trajectory.reward for trajectory in played] == [0.0, 0.0]
    assert played[0].final_text == "I do not know."


def test_a_users_pytest_starts_with_the_fixtures_and_loads_nothing_for_them(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n"
        "def test_theirs():\n"
        "    ours = {name for name in sys.modules if name.startswith('grpo_')}\n"
        "    assert ours == {'grpo_host', 'grpo_host.testing', 'grpo_host.testing.pytest_plugin'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "grpo_host.testing.pytest_plugin", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_entry_point_is_called_as_the_module_so_that_it_may_be_named_too() -> None:
    import tomllib

    project: Any = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {
        "grpo_host.testing.pytest_plugin": "grpo_host.testing.pytest_plugin"
    }
