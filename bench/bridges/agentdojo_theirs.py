"""AgentDojo's own side of the comparison; run by the interpreter that has agentdojo, with JSON on stdin.

Transcripts are played again through its own pipeline (``run_task_with_pipeline``), a recorded answer in place
of each of the model's.
"""

from __future__ import annotations

import json
import sys

from agentdojo.agent_pipeline import (
    AgentPipeline,
    InitQuery,
    SystemMessage,
    ToolsExecutionLoop,
    ToolsExecutor,
)
from agentdojo.agent_pipeline.agent_pipeline import load_system_message
from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.attacks import load_attack
from agentdojo.functions_runtime import FunctionCall
from agentdojo.logging import OutputLogger
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.types import ChatAssistantMessage, text_content_block_from_string


class Recorded(BasePipelineElement):
    """Answers as it was recorded."""

    name = "local"

    def __init__(self, messages):
        self.answers = iter([message for message in messages if message["role"] == "assistant"])

    def query(self, query, runtime, env, messages=(), extra_args=None):
        said = next(self.answers)
        calls = [
            FunctionCall(
                function=one["function"]["name"], args=json.loads(one["function"]["arguments"]), id=one["id"]
            )
            for one in said.get("tool_calls") or []
        ]
        message = ChatAssistantMessage(
            role="assistant",
            content=[text_content_block_from_string(said["content"])],
            tool_calls=calls or None,
        )
        return query, runtime, env, [*messages, message], extra_args or {}


def answers(version, suites):
    """What does each user's task, by its prompt, and each injected one, by its goal."""
    found = {"users": {}, "injections": {}}
    for suite in (get_suites(version)[name] for name in suites):
        environment = suite.load_and_inject_default_environment({})
        for task in suite.user_tasks.values():
            calls = task.ground_truth(task.init_environment(environment.model_copy(deep=True)))
            found["users"][task.PROMPT] = {"calls": plain(calls), "says": task.GROUND_TRUTH_OUTPUT}
        for task in suite.injection_tasks.values():
            calls = task.ground_truth(environment.model_copy(deep=True))
            found["injections"][task.GOAL] = {"calls": plain(calls), "says": task.GROUND_TRUTH_OUTPUT}
    return found


def plain(calls):
    return [[one.function, json.loads(json.dumps(dict(one.args), default=str))] for one in calls]


def judge(version, attack, transcripts):
    """By task: utility, and whether the injected task was done."""
    verdicts = {}
    for task, data, messages in transcripts:
        suite = get_suites(version)[data["suite"]]
        llm = Recorded(messages)
        user_task = suite.get_user_task_by_id(data["user_task"])
        injection_task, injections = None, {}
        if data["injection_task"]:
            injection_task = suite.get_injection_task_by_id(data["injection_task"])
            injections = load_attack(attack, suite, llm).attack(user_task, injection_task)
        pipeline = AgentPipeline(
            [
                SystemMessage(load_system_message("default")),
                InitQuery(),
                llm,
                ToolsExecutionLoop([ToolsExecutor(), llm], max_iters=100),
            ]
        )
        pipeline.name = llm.name
        with OutputLogger(None):
            utility, fell = suite.run_task_with_pipeline(pipeline, user_task, injection_task, injections)
        verdicts[task] = {"success": bool(utility), "resisted": not (injection_task and fell)}
    return verdicts


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    request = json.load(sys.stdin)
    if request["do"] == "answers":
        result = answers(request["version"], request["suites"])
    else:
        result = judge(request["version"], request["attack"], request["transcripts"])
    json.dump(result, out)
