"""Tasksets of verifiers, with the library itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grpo_environments.bridges.verifiers import VerifiersEnvironment
from grpo_sdk.messages import assistant, tool_call, tool_result

HERE = Path(__file__).parent


@pytest.mark.slow  # verifiers takes some seconds to import
async def test_a_taskset_has_its_tools_its_state_and_its_rewards(venv):
    environment = VerifiersEnvironment(
        taskset="verifiers-counting", directory=HERE, config={"highest": 9}, venv=venv("verifiers")
    )
    train, held_out = environment.tasks("train"), environment.tasks("held_out")
    task = train[0]
    opening = await environment.reset(task, seed=0)
    [add] = environment.tools()
    answers = [await add.run({"number": number}) for number in (task.data["answer"], "x")]
    call = tool_call(add.name, json.dumps({"number": task.data["answer"]}), "1")
    environment.follow([assistant("", [call]), tool_result(call, answers[0])])
    result = await environment.step(assistant("I am done."))
    await environment.close()

    number = task.data["answer"]
    assert len(train) + len(held_out) == 7
    assert [message["content"] for message in opening.messages] == ["Count.", f"Count to {number}."]
    assert add.name == "counter_add"
    assert answers[0] == f"{number} of {number}"
    assert answers[1].startswith("Error: ")
    assert (result.done, result.reward) == (True, 0.25)
    assert result.outcome == {"counted": 1.0, "said": 0.0, "calls": 1.0, "success": False, "score": 0.25}


@pytest.mark.slow
def test_a_taskset_with_an_environment_of_its_own_is_refused(venv):
    environment = VerifiersEnvironment(
        taskset="openenv", config={"base_url": "http://127.0.0.1:1"}, venv=venv("verifiers")
    )
    with pytest.raises(Exception, match=r"openenv is played by an environment of its own \(OpenEnvEnv\)"):
        environment.tasks("train")


def test_no_task_is_refused():
    with pytest.raises(ValueError, match="tasks is 0; it must be from 1 to 1000000"):
        VerifiersEnvironment(taskset="gsm8k", tasks=0)
