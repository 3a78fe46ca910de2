"""τ²-bench's retail and airline desks, beside inspect-evals. Run by ``worker.py``, one fork an episode.

The loop is that of ``user_simulator_agent`` in ``inspect_evals/tau2/common/agents.py``, with the models
outside.
"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    ModelName,
    ModelOutput,
    execute_tools,
)
from inspect_ai.scorer import Target
from inspect_ai.solver import TaskState
from inspect_ai.tool import ToolCall, ToolDef
from inspect_ai.util import store_as
from inspect_evals.tau2.common.agents import StoredAgentState
from inspect_evals.tau2.utils import TAU2_DATA_DIR

STOPS = ("###STOP###", "###OUT-OF-SCOPE###", "###TRANSFER###")
SYSTEM = """<instructions>
    You are a customer service agent that helps the user according to the <policy> provided below.
    In each turn you can either:
    - Send a message to the user.
    - Make a tool call.
    You cannot do both at the same time.

    Try to be helpful and always follow the policy. Always make sure you generate valid JSON only.
    </instructions>
    {policy}
    """

tempfile.tempdir = str(Path.cwd())  # it leaves an unpacked database behind each time it loads one


class Side:
    """One episode."""

    def __init__(self, domain: str, message_limit: int) -> None:
        def part(name: str) -> Any:
            return import_module(f"inspect_evals.tau2.{domain}.{name}")

        self.limit = message_limit
        self.instance = f"{domain.capitalize()}Agent"
        self.policy = part("agents").get_domain_policy()
        self.tools_ = [make() for make in getattr(part("tools"), f"all_{domain}_tools")]
        self.scorer = getattr(part("scorer"), f"{domain}_scorer")()
        self.samples = {str(sample.id): sample for sample in part("dataset").read_dataset(self.instance)}
        splits = TAU2_DATA_DIR / "domains" / domain / "split_tasks.json"
        self.held_out = set(json.loads(splits.read_text("utf-8"))["test"])
        getattr(part("tools"), f"get_{domain}_tools")()  # loads the database, which each fork has for itself
        self.domain = domain
        self.said = 0
        self.judged: dict[str, Any] | None = None

    def tasks(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{self.domain}-{name}",
                "split": "held_out" if name in self.held_out else "train",
                "data": {"id": name, "scenario": str(sample.metadata["task"]["user_scenario"])},
            }
            for name, sample in self.samples.items()
        ]

    def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        self.sample = self.samples[data["id"]]
        self.user_messages = list(self.sample.input)
        self.agent = store_as(StoredAgentState, self.instance)
        return {
            "messages": [{"role": "system", "content": SYSTEM.format(policy=self.policy)}],
            "tools": [_schema(tool) for tool in self.tools_],
            "other": self._for_user(),
        }

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        call = ToolCall(id="call", function=name, arguments=arguments)
        asked = ChatMessageAssistant(content="", tool_calls=[call])
        [message] = (await execute_tools([asked], self.tools_)).messages
        return f"Error: {message.error.message}" if message.error else str(message.text)

    async def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        self._heard(said)
        self.user_messages.append(ChatMessageUser(content=said[-1]["content"]))
        if self.said == self.limit:
            return {"done": True, "outcome": await self._judge()}
        return {"other": self._for_user()}

    async def other_says(self, text: str) -> dict[str, Any]:
        self.said += 1
        self.user_messages.append(ChatMessageAssistant(content=text))
        if any(stop in text for stop in STOPS):
            # The first message cannot end it: there would be nothing for the agent to answer.
            return {
                "messages": [{"role": "user", "content": text}],
                "done": True,
                "outcome": await self._judge(),
            }
        return {"messages": [{"role": "user", "content": text}]}

    async def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        """An episode that a limit ends is judged by what was done and said so far, as theirs is."""
        self._heard(said)
        return await self._judge() if self.judged is None else self.judged

    def _heard(self, said: list[dict[str, Any]]) -> None:
        for message in said:
            if message["role"] == "assistant":
                calls = [_call(call) for call in message.get("tool_calls") or ()]
                self.agent.messages.append(
                    ChatMessageAssistant(content=message["content"], tool_calls=calls or None)
                )

    def _for_user(self) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.text} for message in self.user_messages]

    async def _judge(self) -> dict[str, Any]:
        state = TaskState(
            model=ModelName("none/none"),
            sample_id=self.sample.id,
            epoch=1,
            input=self.sample.input,
            messages=self.user_messages,
            metadata=self.sample.metadata,
            output=ModelOutput(),
        )
        score = await self.scorer(state, Target(self.sample.target))
        self.judged = {"success": score.value == "C", "explanation": score.explanation or ""}
        return self.judged


def _call(call: dict[str, Any]) -> Any:
    try:
        arguments = json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        arguments = {}
    if not isinstance(arguments, dict):
        arguments = {}
    return ToolCall(id=call["id"], function=call["function"]["name"], arguments=arguments)


def _schema(tool: Any) -> dict[str, Any]:
    described = ToolDef(tool)
    return {
        "type": "function",
        "function": {
            "name": described.name,
            "description": described.description,
            "parameters": described.parameters.model_dump(exclude_none=True),
        },
    }
