"""Read messages as servers really send them, whole or in pieces, into the SDK's form.

Servers that say they speak OpenAI's protocol send content as a list of parts, arguments as an object, calls
without an id, an index or a name. What comes out of here is text and can be read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_sdk import ChatReply, FinishReason, ToolCall, assistant, tool_call
from grpo_sdk.messages import whole_text


def read_reply(choice: Mapping[str, Any], usage: Any) -> ChatReply:
    """The reply in ``choice`` of a chat completion. Raises ``TypeError`` or similar if there is none."""
    message = choice["message"]
    more = message.get("provider_specific_fields") or {}  # LiteLLM's place for what it has no field for
    refusal = message.get("refusal") or more.get("refusal")
    text, calls = _text(message.get("content")) or _text(refusal), []
    for said in message.get("tool_calls") or ():
        function = said["function"]
        piece = _Call(
            _text(said.get("id")), _text(function.get("name")), _arguments(function.get("arguments"))
        )
        calls.append(piece)
    return _reply(text, calls, choice.get("finish_reason"), usage)


class Pieces:
    """A reply that is put together from the choices of a stream's chunks."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._text: list[str] = []
        self._calls: list[_Call] = []

    def add(self, choice: Mapping[str, Any]) -> str:
        """The text that ``choice`` adds."""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta") or {}
        for piece in delta.get("tool_calls") or ():
            self._add_call(piece)
        text = _text(delta.get("content")) or _text(delta.get("refusal"))
        self._text.append(text)
        return text

    def reply(self, usage: Any) -> ChatReply:
        """The whole reply."""
        return _reply("".join(self._text), self._calls, self.finish_reason, usage)

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        function = piece.get("function") or {}
        said = _Call(
            _text(piece.get("id")),
            _text(function.get("name")),
            _arguments(function.get("arguments")),
            piece.get("index"),
        )
        call = self._continued(said)
        if call is None:
            self._calls.append(said)
        else:
            call.extend(said)

    def _continued(self, said: _Call) -> _Call | None:
        """The call that ``said`` continues. Not every server numbers calls, or names each only once."""
        if said.id and (known := next((call for call in self._calls if call.id == said.id), None)):
            return known
        last = next((c for c in reversed(self._calls) if said.index is None or c.index == said.index), None)
        if last is None or (said.id and last.id):
            return None
        begins = said.name and last.name and (said.name != last.name or bool(said.arguments))
        return None if begins and last.whole() else last


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str
    index: int | None = None

    def extend(self, said: _Call) -> None:
        self.id = self.id or said.id
        if said.name.startswith(self.name):  # some servers repeat the name, or send all of it so far
            self.name = said.name
        else:
            self.name += said.name
        self.arguments += said.arguments

    def whole(self) -> bool:
        """Whether nothing can follow: the arguments are complete."""
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False


def _reply(text: str, said: list[_Call], finish_reason: str | None, usage: Any) -> ChatReply:
    calls: list[ToolCall] = []
    ids: set[str] = set()
    for call in said:
        if not call.name:  # nothing could be called, and no server would take it back
            text = "\n".join(filter(None, [text, call.arguments]))
            continue
        calls.append(tool_call(call.name, call.arguments, "" if call.id in ids else call.id))
        ids.add(call.id)
    usage = usage if isinstance(usage, Mapping) else {}
    finish = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    return ChatReply(
        assistant(text, calls),
        FinishReason.LENGTH if finish_reason == "length" else finish,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _text(said: Any) -> str:
    """A text, or one in parts. Parts that are no text, such as thoughts, are left out."""
    if said is None:
        return ""
    if isinstance(said, str):
        return whole_text(said)
    if isinstance(said, int):
        return str(said)  # an id
    parts = [said] if isinstance(said, Mapping) else list(said)
    return "".join(
        whole_text(part if isinstance(part, str) else part.get("text") or part.get("refusal") or "")
        for part in parts
    )


def _arguments(said: Any) -> str:
    """The arguments, from a JSON text or from its value."""
    if said is None:
        return ""
    return whole_text(
        said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, allow_nan=False)
    )


def _count(said: Any) -> int:
    return int(said) if isinstance(said, int | float) else 0
