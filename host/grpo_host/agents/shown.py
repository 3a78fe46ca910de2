"""An answer as others than the model are to see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from grpo_host.agents.rendering.tool_calls import as_written
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.stop_sequences import StopSequences
from grpo_sdk.backend import FinishReason


async def shown_reply(
    ask: Callable[[OnText | None], Awaitable[Reply]],
    stop: Sequence[str] = (),
    on_text: OnText | None = None,
) -> Reply:
    """What ``ask`` answers, which tells its text as it comes, up to the first text of ``stop``.

    What is no call that could be made is text in it.
    """
    until = StopSequences(stop, on_text)
    reply = await ask(None if on_text is None else until)
    message = as_written(reply.message)
    text = until.end(message["content"])
    finish = reply.finish_reason
    if text != message["content"]:
        finish = FinishReason.TOOL_CALLS if message.get("tool_calls") else FinishReason.STOP
        message = {**message, "content": text}
    return replace(reply, message=message, finish_reason=finish)
