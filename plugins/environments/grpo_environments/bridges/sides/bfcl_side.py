"""BFCL's multi-turn tasks, beside the package bfcl-eval. Run by ``worker.py``, one fork an episode."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("BFCL_PROJECT_ROOT", str(Path.cwd()))  # it makes directories as it is imported

from bfcl_eval.constants.default_prompts import MAXIMUM_STEP_LIMIT
from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call
from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry

UNKNOWN = "no_such_function()"
"""Stands for a call of what was not offered: BFCL runs calls as Python, and this fails as theirs would."""


class Side:
    """One episode."""

    def __init__(self, categories: list[str], partial: bool) -> None:
        self.partial = partial
        self.entries: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, list[list[str]]] = {}
        for category in categories:
            for entry in load_dataset_entry(f"multi_turn_{category}", include_prereq=False):
                self.entries[entry["id"]] = entry
            for answer in load_ground_truth_entry(f"multi_turn_{category}"):
                self.answers[answer["id"]] = answer["ground_truth"]
        self.entry: dict[str, Any] = {}
        self.names: set[str] = set()
        self.turns: list[list[list[str]]] = []
        self.checks = 0
        self.judged: dict[str, Any] | None = None

    def tasks(self) -> list[dict[str, Any]]:
        return [
            {
                "id": name,
                "group": name.rsplit("_", 1)[1],
                "data": {"category": name.rsplit("_", 1)[0], "user": _words(entry["question"])},
            }
            for name, entry in self.entries.items()
        ]

    def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        self.entry = self.entries[task]
        tools = [_tool(function) for function in self.entry["function"]]
        self.names = {tool["function"]["name"] for tool in tools}
        self.turns = [[]]
        return {"messages": self.entry["question"][0], "tools": tools}

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        [result], _ = execute_multi_turn_func_call(
            [self._written(name, arguments)],
            self.entry["initial_config"],
            self.entry["involved_classes"],
            "grpo",
            self.entry["id"],
            long_context="long_context" in self.entry["id"],
        )
        return str(result)

    def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        self._heard(said)
        following = len(self.turns)
        if following == len(self.entry["question"]) or self._too_many_steps():
            self.judged = self._judge(following)
            return {"done": True, "outcome": self.judged, "reward": float(self.judged["success"])}
        self.turns.append([])
        return {"messages": self.entry["question"][following]}

    def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        self._heard(said)
        return self._judge(len(self.turns) - 1) if self.judged is None else self.judged

    def _heard(self, said: list[dict[str, Any]]) -> None:
        """Note the calls of each message: a step, in BFCL's words."""
        for message in said:
            calls = [_call(call) for call in message.get("tool_calls") or ()]
            if calls:
                self.turns[-1].append([self._written(*call) for call in calls])

    def _written(self, name: str, arguments: dict[str, Any] | None) -> str:
        """A call as BFCL writes it, which is as Python: nothing but names and literals may come into it."""
        if name not in self.names or arguments is None or not all(map(str.isidentifier, arguments)):
            return UNKNOWN
        return f"{name}({','.join(f'{key}={value!r}' for key, value in arguments.items())})"

    def _too_many_steps(self) -> bool:
        return len(self.turns[-1]) > int(MAXIMUM_STEP_LIMIT)

    def _judge(self, finished: int) -> dict[str, Any]:
        """The facts after ``finished`` turns; BFCL gives what is cut short no point."""
        answer = self.answers[self.entry["id"]]
        verdict: dict[str, Any] = {"valid": False, "error_type": "multi_turn:force_terminated"}
        if finished == len(answer) and not self._too_many_steps():
            verdict = self._check(finished)
        passed = finished if verdict["valid"] else 0
        while passed < finished and self._check(passed + 1)["valid"]:
            passed += 1
        facts = {"success": verdict["valid"], "progress": passed / len(answer)}
        if self.partial:
            facts["score"] = facts["progress"]
        return facts if verdict["valid"] else {**facts, "error_type": verdict["error_type"]}

    def _check(self, turns: int) -> dict[str, Any]:
        """BFCL's verdict on the first ``turns``."""
        self.checks += 1  # the checker keeps its state by the name of a model
        answer = self.answers[self.entry["id"]][:turns]
        verdict: dict[str, Any] = multi_turn_checker(
            self.turns[:turns], answer, self.entry, "", f"check{self.checks}"
        )
        return verdict


def _words(question: list[list[dict[str, str]]]) -> list[str]:
    return [message["content"] for turn in question for message in turn]


def _call(call: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    try:
        arguments = json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        arguments = None
    return call["function"]["name"], arguments if isinstance(arguments, dict) else None


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    """A function's documentation as a tool's schema."""
    return {
        "type": "function",
        "function": {
            "name": function["name"].replace(".", "_"),
            "description": function["description"],
            "parameters": _schema(function["parameters"]),
        },
    }


def _schema(parameters: dict[str, Any]) -> dict[str, Any]:
    schema = dict(parameters)
    if "type" in schema:
        schema["type"] = GORILLA_TO_OPENAPI.get(schema["type"], "string")
    if "properties" in schema:
        schema["properties"] = {name: _schema(value) for name, value in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        schema["items"] = _schema(schema["items"])
    return schema
