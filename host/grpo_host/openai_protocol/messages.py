"""Conversations as clients send them back to ``/v1``: history is read generously.

Clients send whole objects back, with fields of other servers and nulls: what this server has no use for is
dropped. What is set and would change the answer, such as a picture, is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from grpo_sdk.messages import ContentPart, Message, ToolCall, assistant, system, user

Text = Annotated[str, Field(max_length=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _empty(value: Any) -> Any:
    if value is None or value == "" or value == [] or value == {}:
        return None
    raise PydanticCustomError("extra_forbidden", "there is no such field")


Empty = Annotated[
    Any,
    AfterValidator(_empty),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "null"},
                {"type": "string", "maxLength": 0},
                {"type": "array", "maxItems": 0},
                {"type": "object", "maxProperties": 0},
            ]
        }
    ),
]
"""A field that there is not: clients that know more send it as null, or with nothing in it."""


class Asked(BaseModel):
    """What a client asks for: a field that is not known and says something is an error."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Empty]


class Heard(BaseModel):
    """What a client sends back: a field that is not known is dropped."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(Heard):
    type: Literal["text", "input_text", "output_text"]
    text: Text


class RefusalPart(Heard):
    type: Literal["refusal"]
    refusal: Text


class ImageUrl(Heard):
    url: Annotated[str, Field(min_length=1, max_length=20_000_000)]
    """An ``https:`` or a ``data:`` URL. It goes to the model's provider; this server fetches nothing."""
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Heard):
    type: Literal["image_url"]
    image_url: ImageUrl


class FileReference(Heard):
    file_id: Name | None = None
    file_data: Annotated[str, Field(max_length=20_000_000)] | None = None
    filename: Name | None = None

    @model_validator(mode="after")
    def _names_one(self) -> FileReference:
        if self.file_id is None and self.file_data is None:
            raise PydanticCustomError("no_file", "file_id or file_data says which file")
        return self


class FilePart(Heard):
    type: Literal["file"]
    file: FileReference


Part = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
Content = Text | Annotated[list[Part], Field(max_length=100)]
SeenPart = Annotated[TextPart | RefusalPart | ImagePart | FilePart, Field(discriminator="type")]
SeenContent = Text | Annotated[list[SeenPart], Field(max_length=100)]
"""What a person may say: images and files are for models whose backend takes them."""


def _as_json(value: str | dict[str, Any] | None) -> str:
    if value is None:
        return ""
    # orjson cannot write integers above 64 bits.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class FunctionCall(Heard):
    name: Name
    arguments: Annotated[Text | dict[str, Any] | None, AfterValidator(_as_json)] = ""
    """A JSON text, or what it says."""


class CallIn(Heard):
    id: Name
    type: Literal["function"] | None = "function"
    function: FunctionCall

    def call(self) -> ToolCall:
        """As agents have it."""
        name, arguments = self.function.name, str(self.function.arguments)
        return {"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}


class SystemMessage(Heard):
    role: Literal["system", "developer"]
    content: Content
    name: Name | None = None

    def message(self, names: dict[str, str]) -> Message:
        return _named(system(text_of(self.content)), self.name)


class UserMessage(Heard):
    role: Literal["user"]
    content: SeenContent
    name: Name | None = None
    """Who speaks, if a conversation has several users."""

    def message(self, names: dict[str, str]) -> Message:
        if isinstance(self.content, str):
            return _named(user(self.content), self.name)
        return _named(user([_content_part(part) for part in self.content]), self.name)


class AssistantMessage(Heard):
    role: Literal["assistant"]
    content: Content | None = None
    name: Name | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[CallIn], Field(max_length=64)] | None = None
    audio: None = None
    function_call: None = None
    """Superseded by ``tool_calls``."""

    def message(self, names: dict[str, str]) -> Message:
        names.update({call.id: call.function.name for call in self.tool_calls or ()})
        text = text_of(self.content) or self.refusal or ""
        return _named(assistant(text, [call.call() for call in self.tool_calls or ()]), self.name)


class ToolMessage(Heard):
    role: Literal["tool"]
    content: Content | None = None
    """None: the tool gave nothing."""
    tool_call_id: Name
    name: Name | None = None

    def message(self, names: dict[str, str]) -> Message:
        name = self.name or names.get(self.tool_call_id, "tool")
        said = text_of(self.content)
        return {"role": "tool", "content": said, "name": name, "tool_call_id": self.tool_call_id}


MessageIn = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


def conversation(messages: Sequence[MessageIn]) -> list[Message]:
    """``messages`` as agents have them."""
    names: dict[str, str] = {}
    return [item.message(names) for item in messages]


def text_of(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """All that ``content`` says."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _content_part(part: TextPart | RefusalPart | ImagePart | FilePart) -> ContentPart:
    match part:
        case TextPart() | RefusalPart():
            return {"type": "text", "text": text_of([part])}
        case ImagePart():
            return {"type": "image_url", "image_url": _said(part.image_url)}
        case FilePart():
            return {"type": "file", "file": _said(part.file)}


def _said(model: BaseModel) -> Any:
    return model.model_dump(exclude_none=True)


def _named(message: Message, name: str | None) -> Message:
    return {**message, "name": name} if name else message
