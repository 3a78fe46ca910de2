"""BFCL's multi-turn tasks, with the package itself."""

from __future__ import annotations

import json

import pytest
from bench.bridges import compare

from grpo_environments.bridges.bfcl import BfclEnvironment
from grpo_sdk.messages import assistant, tool_call

CREATES = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.slow
def test_an_evaluation_gives_the_score_of_bfcls_own_checker(venv, tmp_path, monkeypatch):
    venv("bfcl")
    monkeypatch.chdir(tmp_path)
    compared = compare.compare_bfcl(tmp_path / "run", episodes=10)
    assert compared.ours == compared.theirs
    assert {facts["success"] for facts in compared.theirs.values()} == {True, False}
    assert compared.reward == pytest.approx(sum(facts["success"] for facts in compared.theirs.values()) / 10)


def test_splits_share_no_scenario_across_categories(venv):
    environment = BfclEnvironment(venv=venv("bfcl"), categories=("base", "long_context"))
    train, held_out = (
        {task.id.rsplit("_", 1)[1] for task in environment.tasks(s)} for s in ("train", "held_out")
    )
    assert not train & held_out
    assert len(train | held_out) == 200


async def test_what_a_model_writes_is_never_run_as_python(venv, tmp_path):
    """BFCL evaluates a call as Python: names and arguments come from the model."""
    made = tmp_path / "made"
    evil = CREATES.format(str(made))

    environment = BfclEnvironment(venv=venv("bfcl"))
    await environment.reset(environment.tasks("train")[0], seed=0)
    tools = {tool.name: tool for tool in environment.tools()}
    said = [await tools["ls"].run({f"a=True) or {evil} or dict(a": 1})]
    said += [await tools["cd"].run({"folder": f"') or {evil} or str('"})]
    calls = [
        tool_call(evil, "{}", "1"),
        tool_call("ls", json.dumps({f"a=True) or {evil} or dict(a": 1}), "2"),
        tool_call("ls", "no JSON", "3"),
    ]
    environment.follow([assistant("", calls)])
    facts = environment.outcome()
    await environment.close()
    assert "Error during execution" in said[0]
    assert said[1].startswith('{"error": "cd: ')
    assert facts["success"] is False
    assert not made.exists()


async def test_progress_is_the_share_of_turns_before_the_first_wrong_one(venv):
    environment = BfclEnvironment(venv=venv("bfcl"), partial=True)
    task = next(task for task in environment.tasks("train") if task.id == "multi_turn_base_0")
    await environment.reset(task, seed=0)
    tools = {tool.name: tool for tool in environment.tools()}
    arguments = [
        ("cd", {"folder": "document"}),
        ("mkdir", {"dir_name": "temp"}),
        ("mv", {"source": "final_report.pdf", "destination": "temp"}),
    ]
    for name, given in arguments:
        await tools[name].run(given)
        environment.follow([assistant("", [tool_call(name, json.dumps(given), name)])])
    results = [await environment.step(assistant("Done.")) for _ in task.data["user"]]
    await environment.close()
    *others, last = results
    assert not any(result.done for result in others)
    assert last.outcome == {
        "success": False,
        "progress": 0.25,
        "score": 0.25,
        "error_type": "multi_turn:empty_turn_model_response",
    }


def test_no_category_is_refused():
    with pytest.raises(
        ValueError, match="categories is empty; choose from base, miss_param and long_context"
    ):
        BfclEnvironment(categories=())
