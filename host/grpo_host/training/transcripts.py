"""The first conversations of an evaluation, kept in report.json and shown before → after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from grpo_sdk.messages import Message
from grpo_sdk.trajectory import Task, Trajectory

SHOWN = 2
"""Conversations of an evaluation that are kept: those of its first tasks, however they went."""
_LONGEST = 300
"""Characters of a message that are shown; report.json has all."""

Transcript = dict[str, Any]
"""``task``, ``reward``, ``success`` (None if there is none), ``messages`` without the system's."""


def transcripts(tasks: Sequence[Task], played: Iterable[Trajectory]) -> list[Transcript]:
    """The conversations about the first tasks of an evaluation, in their order."""
    by_task = {trajectory.task.id: trajectory for trajectory in played}
    return [_transcript(by_task[task.id]) for task in tasks[:SHOWN] if task.id in by_task]


def compare(before: Sequence[Transcript], after: Sequence[Transcript]) -> Iterator[str]:
    """Lines for a terminal: each conversation as it went before, and as it goes after."""
    earlier = {item["task"]: item for item in before}
    for item in after:
        if item["task"] in earlier:
            yield ""
            yield from _lines("before", earlier[item["task"]])
            yield from _lines("after", item)


def _transcript(trajectory: Trajectory) -> Transcript:
    return {
        "task": trajectory.task.id,
        "reward": trajectory.reward,
        "success": trajectory.outcome.get("success"),
        "messages": [message for message in trajectory.messages if message["role"] != "system"],
    }


def _lines(when: str, transcript: Mapping[str, Any]) -> Iterator[str]:
    reward = transcript["reward"]
    said = "no reward" if reward is None else f"reward {reward:.2f}"
    yield f"{transcript['task']} {when}: {said}"
    for message in transcript["messages"]:
        yield from _spoken(message)


def _spoken(message: Message) -> Iterator[str]:
    who = {"assistant": "agent"}.get(message["role"], message["role"])
    calls = message.get("tool_calls", ())
    if message["content"] or not calls:
        yield f"  {who:<6}{_short(message['content'])}"
    for call in calls:
        yield f"  {who:<6}calls {call['function']['name']} {_short(call['function']['arguments'])}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
