"""One example dialogue, and how a row of a list, a JSONL file or a table becomes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_sdk.errors import ConfigError, did_you_mean
from grpo_sdk.messages import Message, as_messages, assistant, user

TEXTS = ("content", "category", "expected_response")
KEYS = ("id", *TEXTS, "messages", "metadata")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An example: what a user says, and how to answer."""

    id: str
    """Unique within its database."""
    content: str
    """What the user says; searches look for it."""
    category: str = ""
    expected_response: str = ""
    messages: list[Message] = field(default_factory=list)
    """The whole conversation, if the example has one."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Whatever else its row says."""

    @property
    def conversation(self) -> list[Message]:
        """The example as messages: the whole conversation, or question and answer."""
        if self.messages:
            return list(self.messages)
        answer = [assistant(self.expected_response)] if self.expected_response else []
        return [user(self.content), *answer]

    @property
    def can_be_imitated(self) -> bool:
        """Whether it shows what the assistant should say."""
        return any(
            m["role"] == "assistant" and (m["content"] or m.get("tool_calls")) for m in self.conversation
        )


def dialogue_of(row: Any, where: str, *, default_id: str) -> Dialogue:
    """The dialogue that ``row`` describes.

    Keys: ``content`` and ``expected_response``, or ``messages``; ``id``, ``category``, ``metadata``.
    Other keys become metadata. Raises ``ConfigError`` that begins with ``where``.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(
            f"{where}: a dialogue is a mapping with content and expected_response, not {_show(row)}"
        )
    texts = {key: _text(row, key, where) for key in TEXTS}
    messages = _messages(row, where)
    if messages:
        texts["content"] = texts["content"] or _first(messages, "user")
        texts["expected_response"] = texts["expected_response"] or _first(messages[::-1], "assistant")
    if not texts["content"].strip():
        near = next((key for key in row if _suggest(key, ["content"])), None)
        meant = f' It has "{near}": is that meant?' if near else ""
        raise ConfigError(f'{where}: the dialogue has no "content", what the user says.{meant}')
    return Dialogue(
        id=_id(row, where, default_id), messages=messages, metadata=_metadata(row, where), **texts
    )


def _text(row: Mapping[Any, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f'{where}: "{key}" is {_show(value)}; it must be a text')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f'{where}: "{key}" holds half a surrogate pair, which is no character') from None
    return value


def _id(row: Mapping[Any, Any], where: str, default: str) -> str:
    value = row.get("id")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ConfigError(f'{where}: "id" is {_show(value)}; it must be a text or a whole number')
    return str(value)


def _messages(row: Mapping[Any, Any], where: str) -> list[Message]:
    value = row.get("messages")
    if value is None:
        return []
    try:
        messages = as_messages(value)
        json.dumps(messages, ensure_ascii=False).encode()
    except (TypeError, ValueError) as problem:
        raise ConfigError(f'{where}: "messages": {problem}') from None
    return messages


def _metadata(row: Mapping[Any, Any], where: str) -> dict[str, Any]:
    value = row.get("metadata")
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f'{where}: "metadata" is {_show(value)}; it must be a mapping')
    metadata = {**(value or {})}
    for key in row:
        if key in KEYS:
            continue
        if hint := _suggest(key, [known for known in KEYS if known not in row]):
            raise ConfigError(f'{where}: unknown key "{key}".{hint} Or put it below "metadata"')
        metadata[key] = row[key]
    try:
        json.dumps(metadata, ensure_ascii=False).encode()
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"{where}: what JSON cannot say is in the metadata: {problem}") from None
    return metadata


def _suggest(key: Any, known: list[str]) -> str:
    return did_you_mean(key, known) if isinstance(key, str) and key not in KEYS else ""


def _first(messages: list[Message], role: str) -> str:
    return next((m["content"] for m in messages if m["role"] == role and m["content"]), "")


def _show(value: Any) -> str:
    return f"{value!r:.60}"
