"""Let the model summarise the earlier part of a conversation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from grpo_host.agents.agent import Agent
from grpo_host.chat.context import counter
from grpo_sdk.backend import Sampling
from grpo_sdk.messages import Message, system, user
from grpo_sdk.strategy import Strategy

INSTRUCTIONS = (
    "You keep the notes of a conversation between a user and an assistant. Write one short summary in "
    "plain sentences: who the user is and what they want; names, numbers, dates and order ids exactly; "
    "what the assistant found out, did and promised; what is still open. Write only the summary."
)


async def summarise(agent: Agent, earlier: str, messages: Sequence[Message], *, tokens: int) -> str:
    """Summarise ``earlier``, itself a summary, and ``messages`` in at most ``tokens`` tokens.

    What does not fit into the model's context at once is summarised piece by piece. A message that
    does not fit by itself is mentioned, not read. Raises what the backend raises.
    """
    writer = replace(
        agent,
        strategy=Strategy("summary", INSTRUCTIONS),
        tools=(),
        sampling=Sampling(max_tokens=tokens, temperature=0.0),
    )
    count = counter(agent.renderer, ())
    room = agent.backend.model.context - tokens
    summary = earlier
    waiting = [_line(message) for message in messages]
    while waiting:
        numbers = range(1, len(waiting) + 1)
        taken = bisect_left(
            numbers,
            True,
            key=lambda n: count([system(INSTRUCTIONS), user(_request(summary, waiting[:n]))]) > room,
        )
        if taken == 0:
            waiting[0] = _mention(waiting[0])
            if not waiting[0]:
                del waiting[0]
            continue
        answer = await writer.open().act([user(_request(summary, waiting[:taken]))])
        summary = answer["content"].strip() or summary
        del waiting[:taken]
    return summary


def _request(summary: str, lines: Sequence[str]) -> str:
    parts = [f"The notes until now:\n{summary}"] if summary else []
    parts.append("The conversation:\n" + "\n".join(lines))
    return "\n\n".join([*parts, "Write the summary."])


def _mention(line: str) -> str:
    """A mention of a line too long to read; empty if even that does not fit."""
    return "" if line.startswith("[") else f"[Here stood a message of {len(line)} characters.]"


def _line(message: Message) -> str:
    content = message["content"]
    if message["role"] == "tool":
        return f"Result of {message.get('name', 'a tool')}: {content}"
    calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in message.get("tool_calls", ())]
    said = [content] if content else []
    if calls:
        said.append(f"(uses {', '.join(calls)})")
    return f"{'User' if message['role'] == 'user' else 'Assistant'}: {' '.join(said)}"
