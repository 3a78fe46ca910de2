"""A scripted policy, a file beside agent.yaml: it knows what solves each task, and does so more or less well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_sdk.backend import ModelSpec
from grpo_sdk.messages import Message, ToolSchema, assistant, tool_call
from grpo_sdk.testing import ScriptedBackend


def chance(text: str, of: int) -> int:
    """A number below ``of`` that only ``text`` decides."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % of


def calls_of(calls: Sequence[Any], number: int) -> Message:
    """The message that makes the first of ``calls``."""
    name, arguments = calls[0]
    return assistant("", [tool_call(name, json.dumps(arguments), f"call-{number}")])


class Solver(ScriptedBackend):
    """Plays each task from the answers in a file: whole, without its last call, with calls twice, or not at all."""

    def __init__(self, model: ModelSpec | None = None, *, answers: Path) -> None:
        super().__init__(model, script=self.answer)
        known = json.loads(answers.read_text(encoding="utf-8"))
        self.turns: dict[str, list[Any]] = known["turns"]
        """By the first words of a user's: what to call in each turn, and what to say in the end."""
        self.baits: dict[str, Any] = known.get("baits", {})
        """By a text that tools may return: what it asks for."""

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> Message:
        said = [message["content"] for message in messages if message["role"] == "user"]
        plan = self.turns[said[0]]
        manner = 0 if plan[0].get("as_told") else chance(f"manner of {said[0]}", 4)
        turn = min(len(said), len(plan)) - 1
        calls, says = list(plan[turn]["calls"]), plan[turn]["says"]
        if manner == 1 and turn == len(plan) - 1:
            calls = calls[:-1]
        elif manner == 2:
            calls = [call for call in calls for _ in range(2)]
        elif manner == 3 and turn == len(plan) - 1:
            calls, says = [], "Done."
        since = messages[max(i for i, message in enumerate(messages) if message["role"] == "user") :]
        for text, bait in self.baits.items():
            if chance(said[0] + text, 2) and any(
                message["role"] == "tool" and " ".join(text.split()) in " ".join(message["content"].split())
                for message in since
            ):
                calls = [*calls, *bait["calls"]]
        made = sum(message["role"] == "assistant" for message in since)
        if made < len(calls):
            return calls_of(calls[made:], len(messages))
        return assistant(says or "Done.")


class Customer(ScriptedBackend):
    """Plays τ²'s customer: reads its scenario out, and is content with the first answer."""

    def __init__(self, model: ModelSpec | None = None) -> None:
        super().__init__(model, script=self.say)

    def say(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> str:
        if messages[-1]["content"].startswith("Begin the interaction."):
            return messages[0]["content"].split("<scenario>\n")[1].split("\n</scenario>")[0]
        return "Thank you. ###STOP###"
