"""OpenEnv environments, by openenv's client. Run by ``worker.py``, one fork an episode.

An app that is named here is served by the episode's own process: most allow one session at a time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.request
from importlib import import_module
from typing import Any

import uvicorn
from openenv.core import GenericEnvClient
from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction

OF_TOOLS = {CallToolAction.__name__, ListToolsAction.__name__, "Action"}
"""Titles of action schemas that stand for calls of tools."""


class Side:
    """One episode."""

    def __init__(
        self,
        url: str | None,
        app: str | None,
        directory: str | None,
        reset: dict[str, Any],
        instructions: str,
        show: str | None,
        success: float,
    ) -> None:
        self.url, self.reset, self.show, self.least = url, reset, show, success
        self.instructions = instructions
        self.app: Any = None
        if app is not None:
            if directory is not None:
                sys.path.insert(0, directory)
            module, _, name = app.partition(":")
            self.app = getattr(import_module(module), name or "app")
        self.client: Any = None
        self.schema: dict[str, Any] = {}
        self.score, self.steps, self.done = 0.0, 0, False

    def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        url = self.url or served(self.app)
        with urllib.request.urlopen(f"{url.rstrip('/')}/schema", timeout=30) as answer:  # noqa: S310 - of http
            self.schema = json.load(answer)["action"]
        # Its own thread answers the server's pings while the agent thinks.
        self.client = GenericEnvClient(base_url=url).sync()
        self.client.connect()
        tools = []
        if self.schema.get("title") in OF_TOOLS:
            listed = self.client.step({"type": "list_tools"}).observation["tools"]
            tools = [tool_of(one) for one in listed]
        result = self.client.reset(seed=data["seed"], **self.reset)
        told = "\n".join(text for text in (self.instructions, "" if tools else self._asked_for()) if text)
        messages = [{"role": "system", "content": told}] if told else []
        return {"messages": [*messages, self._shown(result)], "tools": tools}

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        observation = self._step({"type": "call_tool", "tool_name": name, "arguments": arguments}).observation
        if observation.get("error"):
            problem = observation["error"]
            return f"Error: {problem.get('message', problem) if isinstance(problem, dict) else problem}"
        result = observation.get("result", observation)
        return result.get("data", result) if isinstance(result, dict) else result

    def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        if self.schema.get("title") in OF_TOOLS:  # an answer that calls nothing is its last
            return {"done": True, "outcome": self.outcome([]), "reward": self.score}
        action, problem = self._action(said[-1]["content"])
        if problem is None:
            try:
                result = self._step(action)
            except RuntimeError as refused:
                if "VALIDATION_ERROR" not in str(refused):
                    raise
                problem = str(refused)
        if problem is not None:
            return {
                "messages": [{"role": "user", "content": f"That is no action: {problem}"}],
                "reward": 0.0,
            }
        reward = float(result.reward or 0.0)
        if self.done:
            return {"done": True, "outcome": self.outcome([]), "reward": reward}
        return {"messages": [self._shown(result)], "reward": reward}

    def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return {"success": self.score > self.least, "score": self.score, "steps": self.steps}

    def _step(self, action: dict[str, Any]) -> Any:
        result = self.client.step(action)
        self.steps += 1
        self.score += float(result.reward or 0.0)
        self.done = self.done or bool(result.done)
        return result

    def _action(self, said: str) -> tuple[dict[str, Any], str | None]:
        """The action of an answer: JSON, or the value of the only field that it must have."""
        text = said.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
        try:
            action = json.loads(text)
        except ValueError:
            action = text
        if isinstance(action, dict):
            return action, None
        required = self.schema.get("required", [])
        if len(required) == 1:
            as_text = self.schema["properties"][required[0]].get("type") == "string"
            return {required[0]: said if as_text else action}, None
        return {}, "answer with a JSON object"

    def _asked_for(self) -> str:
        fields = {name: one for name, one in self.schema["properties"].items() if name != "metadata"}
        if len(self.schema.get("required", [])) == 1 and len(fields) == 1:
            [(name, one)] = fields.items()
            about = one.get("description", name)
            return f"Each of your answers is an action: {about}."
        said = {**self.schema, "properties": fields}
        return f"Each of your answers is an action, a JSON object of this schema:\n{json.dumps(said)}"

    def _shown(self, result: Any) -> dict[str, str]:
        observation: Any = {name: one for name, one in result.observation.items() if name != "metadata"}
        if self.show is not None:
            if self.show not in observation:
                known = ", ".join(observation)
                raise ValueError(f"show: the observation has no {self.show}; it has {known}")
            observation = observation[self.show]
        text = observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
        return {"role": "user", "content": text if observation else "Begin."}


def served(app: Any) -> str:
    """The address at which a thread of this process serves ``app``; no proxy is asked for it."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def tool_of(listed: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": listed["name"],
            "description": listed.get("description") or "",
            "parameters": listed.get("input_schema") or {"type": "object", "properties": {}},
        },
    }
