"""Map an episode's messages and task to an app's input, and its output to the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages

from grpo_sdk.errors import ConfigError, did_you_mean
from grpo_sdk.messages import Message

ROOTS = ["messages", "new", "text", "task"]
"""What a path begins with: the conversation, what is new in it, the text of its last message, the task."""


def check_path(path: str) -> None:
    """Raises ``ConfigError`` unless ``path`` begins with one of ``ROOTS``."""
    root = path.partition(".")[0]
    if root not in ROOTS:
        raise ConfigError(
            f'"{path}" is no path.{did_you_mean(root, ROOTS)} A path begins with {", ".join(ROOTS)}, such as '
            "task.orders"
        )


def mapped(paths: str | Mapping[str, str], values: Mapping[str, Any]) -> Any:
    """The value at a path, or those of several by key. Raises ``ConfigError`` if there is none."""
    if isinstance(paths, str):
        return at(values, paths)
    return {key: at(values, path) for key, path in paths.items()}


def at(values: Any, path: str) -> Any:
    """The value at ``path`` in mappings, sequences and objects. Raises ``ConfigError`` if there is none."""
    found = values
    for step in path.split("."):
        there = found
        try:
            if isinstance(there, Mapping):
                found = there[step]
            elif isinstance(there, Sequence) and not isinstance(there, str):
                found = there[int(step)]
            else:
                found = getattr(there, step)
        except (KeyError, IndexError, ValueError, AttributeError):
            keys = list(there) if isinstance(there, Mapping) else []
            known = f"; there are: {', '.join(map(str, keys))}" if keys else ""
            raise ConfigError(f'there is no "{path}": {type(there).__name__} has no {step}{known}') from None
    return found


def messages_of(said: Sequence[Message]) -> list[BaseMessage]:
    """``said`` as LangChain's messages."""
    return convert_to_messages([dict(message) for message in said])


def answer_of(given: Any, path: str | None) -> str:
    """The answer in what an app gives, as a text. Raises ``ConfigError`` if it cannot be told."""
    if path is not None:
        return text_of(at(given, path))
    if isinstance(given, Mapping):
        if given.get("structured_response") is not None:
            return text_of(given["structured_response"])
        messages = given.get("messages")
        if isinstance(messages, Sequence) and messages and isinstance(messages[-1], BaseMessage):
            return messages[-1].text
        raise ConfigError(
            f"it gives {', '.join(map(str, given)) or 'nothing'} and no messages. Say in agent.output where "
            "its answer is"
        )
    return text_of(given)


def text_of(value: Any) -> str:
    """``value`` as a text: JSON unless it is a text or a message."""
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return value.text
    dump = getattr(value, "model_dump_json", None)
    if callable(dump):
        return str(dump())
    return json.dumps(value, ensure_ascii=False, default=str)


def resumed_with(text: str) -> Any:
    """What a graph that waits is told: the text, or the JSON object that it is, as LangChain's middleware
    ``HumanInTheLoopMiddleware`` wants its decisions."""
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return read if isinstance(read, dict) else text
