"""τ²-bench's retail desk, with inspect-evals itself."""

from __future__ import annotations

import pytest
from bench.bridges import compare

from grpo_environments.bridges.tau2 import Tau2Environment
from grpo_sdk.messages import assistant
from grpo_sdk.testing import ScriptedBackend


@pytest.mark.slow
@pytest.mark.timeout(900)  # Inspect writes the whole database down after each call of a tool
def test_an_evaluation_gives_the_score_of_inspects_own_run(venv, tmp_path, monkeypatch):
    venv("tau2")
    monkeypatch.chdir(tmp_path)
    compared = compare.compare_tau2(tmp_path / "run", episodes=2)
    assert compared.ours == compared.theirs
    assert {facts["success"] for facts in compared.theirs.values()} == {True, False}
    assert compared.reward == pytest.approx(sum(facts["success"] for facts in compared.theirs.values()) / 2)


async def test_the_customer_knows_the_scenario_and_the_agent_the_policy(venv):
    heard = []

    def customer(messages, tools):
        heard.append([dict(message) for message in messages])
        return "I want my money back." if len(heard) == 1 else "Never mind. ###STOP###"

    environment = Tau2Environment(user=ScriptedBackend(script=customer), venv=venv("tau2"))
    task = environment.tasks("held_out")[0]
    opening = await environment.reset(task, seed=0)
    result = await environment.step(assistant("Who are you?"))
    await environment.close()
    _ = task
    assert [message["role"] for message in opening.messages] == ["system", "user"]
    assert "# Retail agent policy" in opening.messages[0]["content"]
    assert opening.messages[1]["content"] == "I want my money back."
    assert "<scenario>" in heard[0][0]["content"]
    assert "<scenario>" not in opening.messages[0]["content"]
    assert heard[1][2:] == [
        {"role": "assistant", "content": "I want my money back."},
        {"role": "user", "content": "Who are you?"},
    ]
    assert result.done
    assert result.outcome["success"] is False
    assert "database does not match" in result.outcome["explanation"]
