"""Chat messages: OpenAI-style dicts, the form that chat templates, vLLM, LiteLLM and TRL share.

``content`` is always a text, so that rewards and environments can read it. A message that is more than
text (an image, a file) has ``parts`` too; a backend with the capability ``parts`` is sent these.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(TypedDict):
    """The function part of a tool call."""

    name: str
    """The tool's name."""
    arguments: str
    """The arguments as a JSON text, exactly as the model wrote them."""


class ToolCall(TypedDict):
    """One call of a tool that an assistant message asks for."""

    id: str
    """Unique in the conversation."""
    type: Literal["function"]
    """Always ``function``."""
    function: FunctionCall
    """Name of the tool, and arguments as a JSON text."""


class TextPart(TypedDict):
    """A text within a message that has other parts."""

    type: Literal["text"]
    """Always ``text``."""
    text: str
    """What it says."""


class ImageUrl(TypedDict):
    """Where an image is."""

    url: str
    """An ``https:`` or a ``data:`` URL."""
    detail: NotRequired[Literal["auto", "low", "high"]]
    """How closely the model looks, if the provider knows this."""


class ImagePart(TypedDict):
    """An image, by reference."""

    type: Literal["image_url"]
    """Always ``image_url``."""
    image_url: ImageUrl
    """Where it is."""


class FileReference(TypedDict):
    """A file that the provider holds, or its content as a ``data:`` URL; one of the two."""

    file_id: NotRequired[str]
    """Of a file that was uploaded to the provider."""
    file_data: NotRequired[str]
    """A ``data:`` URL."""
    filename: NotRequired[str]
    """With ``file_data``: its name."""


class FilePart(TypedDict):
    """A file, by reference."""

    type: Literal["file"]
    """Always ``file``."""
    file: FileReference
    """Which one."""


ContentPart = TextPart | ImagePart | FilePart
"""One of OpenAI's content parts."""


class Message(TypedDict):
    """One message of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """The text; empty if an assistant only calls tools."""
    parts: NotRequired[list[ContentPart]]
    """All that is said, in order, if it is more than text; ``content`` is then what is text of it."""
    name: NotRequired[str]
    """Of a tool message: the tool's name."""
    tool_calls: NotRequired[list[ToolCall]]
    """Of an assistant message: the tools that it calls, at least one."""
    tool_call_id: NotRequired[str]
    """Of a tool message: ``id`` of the call that it answers."""


class ToolSchema(TypedDict):
    """A tool as a model sees it: the OpenAI function schema."""

    type: Literal["function"]
    """Always ``function``."""
    function: dict[str, Any]
    """``name``, ``description`` and ``parameters``, a JSON schema of an object."""


def whole_text(text: str) -> str:
    """Replace each lone surrogate in ``text``, which no tokenizer, JSON or UTF-8 accepts, by U+FFFD.

    File names that are not UTF-8 bring them (``os.fsdecode``), and JSON that was cut in an emoji.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def traceback_text(problem: BaseException) -> str:
    """The traceback of ``problem`` as text that every log takes: UTF-8 refuses what file names may hold."""
    return whole_text("".join(traceback.format_exception(problem)).rstrip())


def system(content: str) -> Message:
    """A system message."""
    return {"role": "system", "content": whole_text(content)}


def user(content: str | Sequence[ContentPart]) -> Message:
    """A user message: a text, or parts. Raises ``ValueError`` for a part that is none."""
    if isinstance(content, str):
        return {"role": "user", "content": whole_text(content)}
    return as_messages([{"role": "user", "content": list(content)}])[0]


def image_part(url: str) -> ImagePart:
    """An image at ``url``, an ``https:`` or a ``data:`` URL, as part of a user message."""
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> TextPart:
    """A text as part of a user message."""
    return {"type": "text", "text": text}


def content_of(message: Message) -> str | list[ContentPart]:
    """What OpenAI's protocol calls the content of ``message``: its parts if it has any, else its text."""
    return message.get("parts") or message["content"]


def on_the_wire(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """``messages`` as OpenAI's protocol has them, with their parts as content; those of text as they are."""
    return [_in_parts(message) if "parts" in message else message for message in messages]


def _in_parts(message: Message) -> dict[str, Any]:
    known = {key: value for key, value in message.items() if key != "parts"}
    return {**known, "content": content_of(message)}


def assistant(content: str, tool_calls: list[ToolCall] | None = None) -> Message:
    """An assistant message, with the tools that it calls."""
    message: Message = {"role": "assistant", "content": whole_text(content)}
    if tool_calls:
        message["tool_calls"] = tool_calls
    return message


def tool_result(call: ToolCall, content: str) -> Message:
    """The tool message that answers ``call``."""
    return {
        "role": "tool",
        "content": whole_text(content),
        "name": call["function"]["name"],
        "tool_call_id": call["id"],
    }


def tool_call(name: str, arguments: str, call_id: str) -> ToolCall:
    """A tool call; ``arguments`` is a JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def as_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copy ``messages`` from elsewhere; each copy has a known role and its content as a text.

    Content that is None (an assistant that only calls tools) becomes an empty text, what is no character in
    a text U+FFFD, and a list of parts ``parts``, or a text if they are nothing else. Raises ``ValueError``
    that names the first message that is none.
    """
    if isinstance(messages, str | Mapping):
        raise ValueError(f"messages are a list of dicts with role and content, not {messages!r:.80}")
    return [_as_message(index, message) for index, message in enumerate(messages)]


def _as_message(index: int, message: Any) -> Message:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} is {message!r:.80}, not a dict with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"{where} has the role {role!r:.40}; roles are system, user, assistant and tool")
    if content is None and role == "assistant":
        content = ""
    parts = message.get("parts") or (content if isinstance(content, list) else None)
    if parts is not None:
        read = [_as_part(where, part) for part in parts]
        content = "".join(part["text"] for part in read if part["type"] == "text")
        known: dict[str, Any] = {key: value for key, value in message.items() if key != "parts"}
        if any(part["type"] != "text" for part in read):
            known["parts"] = read
        return cast("Message", {**known, "role": role, "content": content})
    if not isinstance(content, str):
        raise ValueError(f"{where} has the content {content!r:.80}, which is no text")
    return cast("Message", {**message, "role": role, "content": whole_text(content)})


def _as_part(where: str, part: Any) -> ContentPart:
    kind = part.get("type") if isinstance(part, Mapping) else None
    match part:
        case {"type": "text", "text": str(said)}:
            return {"type": "text", "text": whole_text(said)}
        case {"type": "image_url", "image_url": {"url": str()}}:
            return {"type": "image_url", "image_url": dict(part["image_url"])}  # type: ignore[typeddict-item]
        case {"type": "file", "file": {"file_id": str()} | {"file_data": str()}}:
            return {"type": "file", "file": dict(part["file"])}  # type: ignore[typeddict-item]
    raise ValueError(
        f"{where} has a part of the type {kind!r:.40} that cannot be read ({part!r:.80}); parts are text, "
        'image_url with {"url": ...} and file with {"file_id": ...} or {"file_data": ...}'
    )
