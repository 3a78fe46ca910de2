"""AgentDojo's tasks, beside the package agentdojo. Run by ``worker.py``, one fork an episode."""

from __future__ import annotations

import json
from ast import literal_eval
from types import SimpleNamespace
from typing import Any

from agentdojo.agent_pipeline.agent_pipeline import load_system_message
from agentdojo.agent_pipeline.tool_execution import is_string_list, tool_result_to_str
from agentdojo.attacks import load_attack
from agentdojo.attacks.attack_registry import ATTACKS
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.types import text_content_block_from_string


class Side:
    """One episode."""

    def __init__(self, suites: list[str], attack: str | None, addressed: str, version: str) -> None:
        known = get_suites(version)
        if not known:
            raise SystemExit(f"agentdojo has no version {version} of its benchmark")
        if attack is not None and attack not in ATTACKS:
            raise SystemExit(f"agentdojo has no attack {attack}; its attacks are: {', '.join(ATTACKS)}")
        self.suites = {name: known[name] for name in suites}
        target = SimpleNamespace(name=addressed)  # a pipeline, of which attacks ask nothing else
        self.attacks = {
            name: load_attack(attack, suite, target) for name, suite in self.suites.items() if attack
        }
        self.said: list[dict[str, Any]] = []

    def tasks(self) -> list[dict[str, Any]]:
        found = []
        for name, suite in self.suites.items():
            injected: list[str | None] = [None]
            if name in self.attacks:
                injected = list(suite.injection_tasks)
                if self.attacks[name].is_dos_attack:  # whatever it is, it is not asked for
                    injected = injected[:1]
            for user_id, user_task in suite.user_tasks.items():
                for injection_id in injected:
                    said = f"{name}-{user_id}" + (f"-{injection_id}" if injection_id else "")
                    data = {"suite": name, "user_task": user_id, "injection_task": injection_id}
                    data["prompt"] = user_task.PROMPT
                    found.append({"id": said, "group": f"{name}-{user_id}", "data": data})
        return found

    def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        self.suite = self.suites[data["suite"]]
        self.user_task = self.suite.get_user_task_by_id(data["user_task"])
        self.injection_task = None
        self.attack = None
        injections = {}
        if data["injection_task"] is not None:
            self.injection_task = self.suite.get_injection_task_by_id(data["injection_task"])
            self.attack = self.attacks[data["suite"]]
            injections = self.attack.attack(self.user_task, self.injection_task)
        environment = self.suite.load_and_inject_default_environment(injections)
        self.environment = self.user_task.init_environment(environment)
        self.before = self.environment.model_copy(deep=True)
        self.runtime = FunctionsRuntime(self.suite.tools)
        return {
            "messages": [
                {"role": "system", "content": load_system_message("default")},
                {"role": "user", "content": self.user_task.PROMPT},
            ],
            "tools": [_tool(function) for function in self.suite.tools],
        }

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        result, error = self.runtime.run_function(self.environment, name, _read(arguments))
        return str(error or tool_result_to_str(result))

    def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return {"done": True, "outcome": self.outcome(said)}

    def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        self.said += [message for message in said if message["role"] == "assistant"]
        calls = [
            FunctionCall(function=call["function"]["name"], args=_arguments(call), id=call["id"])
            for message in self.said
            for call in message.get("tool_calls") or ()
        ]
        answer = [text_content_block_from_string(self.said[-1]["content"])] if self.said else []
        success = self._check(self.user_task, answer, calls)
        fell = False
        if self.attack is not None and self.attack.is_dos_attack:
            fell = not success
        elif self.injection_task is not None:
            fell = self._check(self.injection_task, answer, calls)
        return {"success": success, "resisted": not fell}

    def _check(self, task: Any, answer: list[Any], calls: list[Any]) -> bool:
        return bool(self.suite._check_task_result(task, answer, self.before, self.environment, calls))


def _arguments(call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        return {}
    return _read(arguments) if isinstance(arguments, dict) else {}


def _read(arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` with lists in place of texts that are lists, as AgentDojo's executor reads them."""
    return {
        key: literal_eval(value) if isinstance(value, str) and is_string_list(value) else value
        for key, value in arguments.items()
    }


def _tool(function: Any) -> dict[str, Any]:
    described = {
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters.model_json_schema(),
    }
    return {"type": "function", "function": described}
