"""AgentDojo's tasks, with the package itself."""

from __future__ import annotations

import pytest
from bench.bridges import compare

from grpo_environments.bridges.agentdojo import AgentDojoEnvironment
from grpo_sdk.messages import assistant


@pytest.mark.slow
def test_an_evaluation_gives_the_scores_of_agentdojos_own_pipeline(venv, tmp_path, monkeypatch):
    venv("agentdojo")
    monkeypatch.chdir(tmp_path)
    compared = compare.compare_agentdojo(tmp_path / "run", episodes=18)
    assert compared.ours == compared.theirs
    assert {facts["success"] for facts in compared.theirs.values()} == {True, False}
    assert {facts["resisted"] for facts in compared.theirs.values()} == {True, False}
    total = sum(facts["success"] + facts["resisted"] for facts in compared.theirs.values())
    assert compared.reward == pytest.approx(total / 18)


async def test_without_an_attack_there_is_nothing_to_fall_for(venv):
    environment = AgentDojoEnvironment(venv=venv("agentdojo"), suites=("banking",), attack=None)
    tasks = [*environment.tasks("train"), *environment.tasks("held_out")]
    opening = await environment.reset(tasks[0], seed=0)
    result = await environment.step(assistant("No."))
    await environment.close()
    assert len(tasks) == 16
    assert [message["role"] for message in opening.messages] == ["system", "user"]
    assert result.outcome == {"success": False, "resisted": True}


def test_an_attack_that_agentdojo_does_not_have_is_refused_with_those_that_it_has(venv):
    environment = AgentDojoEnvironment(venv=venv("agentdojo"), suites=("banking",), attack="flattery")
    with pytest.raises(
        Exception, match=r"agentdojo has no attack flattery; its attacks are: .*important_instructions"
    ):
        environment.tasks("train")


def test_an_attack_that_asks_a_person_is_refused():
    with pytest.raises(ValueError, match="the attack manual asks a person at the keyboard"):
        AgentDojoEnvironment(attack="manual")


def test_no_suite_is_refused():
    with pytest.raises(ValueError, match="suites is empty"):
        AgentDojoEnvironment(suites=())
