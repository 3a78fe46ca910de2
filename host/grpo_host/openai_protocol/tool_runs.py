"""Which tools were called for an answer, as the caller is shown."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from grpo_host.agents.agent import ToolUse
from grpo_sdk.tools import MALFORMED_CALL

MOST_CHARACTERS = 1000
"""Of a result that is shown; the model saw all of it."""


class ToolRun(BaseModel):
    """A tool that the server ran for this answer."""

    name: str
    """Empty: what the model wrote could not be read as a call; ``arguments`` is that text."""
    arguments: str
    """A JSON text, as the model wrote it."""
    result: str
    """What the model was answered; a long one is cut."""
    ok: bool
    """False: the call was wrong, or the tool failed; the result says why."""
    seconds: float


def shown(uses: Iterable[ToolUse]) -> list[ToolRun]:
    """``uses``, in their order."""
    return [
        ToolRun(
            name="" if use.run.name == MALFORMED_CALL else use.run.name,
            arguments=use.call["function"]["arguments"],
            result=_cut(use.answer["content"]),
            ok=use.run.error is None,
            seconds=round(use.run.seconds, 3),
        )
        for use in uses
    ]


def _cut(text: str) -> str:
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}\n[{more} characters left out]"
