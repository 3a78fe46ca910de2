"""What ``/v1/responses`` speaks: the part of OpenAI's Responses protocol that needs no memory here.

The whole conversation comes with each request. What would have to be remembered, such as
``previous_response_id``, and what cannot be honoured is an error that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from grpo_host.openai_protocol.completions import AnyJson, FunctionDefinition, Label, NamedSchema, PlainText
from grpo_host.openai_protocol.messages import Asked, Content, Heard, Name, Text, text_of
from grpo_host.openai_protocol.tool_runs import ToolRun
from grpo_sdk.backend import Sampling
from grpo_sdk.messages import Message, ToolSchema, assistant, system, tool_call, user


class MessageItem(Heard):
    type: Literal["message"] | None = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content

    def said(self) -> Message:
        text = text_of(self.content)
        if self.role == "user":
            return user(text)
        return assistant(text) if self.role == "assistant" else system(text)


class FunctionCallItem(Heard):
    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: Text


class FunctionCallOutputItem(Heard):
    type: Literal["function_call_output"]
    call_id: Name
    output: Content


class ReasoningItem(Heard):
    """Of another server: dropped."""

    type: Literal["reasoning"]


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return str(kind or "message")


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


class FunctionTool(FunctionDefinition):
    type: Literal["function"]


class SchemaFormat(NamedSchema):
    type: Literal["json_schema"]


TextFormat = Annotated[PlainText | AnyJson | SchemaFormat, Field(discriminator="type")]


class ForcedByName(Asked):
    type: Literal["function"]
    name: Name


class TextSettings(Asked):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesStreamOptions(Asked):
    include_obfuscation: bool | None = None


class ResponsesRequest(Asked):
    """A conversation to be gone on with, in items."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "", "input": "Hello"}]})
    FORMAT: ClassVar[str] = "text.format"

    model: Name
    """One of GET /v1/models."""
    input: Text | Annotated[list[Item], Field(min_length=1, max_length=2048)]
    instructions: Text | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    """Of the caller, who runs them. Without any, an agent calls its own tools, and the server runs them."""
    tool_choice: Literal["none", "auto", "required"] | ForcedByName | None = None
    """required, or a function: the answer calls a tool of the caller's."""
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    previous_response_id: None = None
    """Nothing is kept between requests."""
    conversation_id: None = Field(None, alias="conversation")
    store: bool | None = None
    """Taken, and nothing is stored."""
    include: list[Literal["reasoning.encrypted_content", "web_search_call.action.sources"]] | None = None
    metadata: dict[str, Any] | None = None
    user: Label | None = None
    service_tier: str | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    @property
    def n(self) -> int | None:
        return 1

    @property
    def logprobs(self) -> bool | None:
        return False

    def conversation(self) -> list[Message]:
        """The items as messages: calls belong to the assistant's message that they follow."""
        messages = [user(self.input)] if isinstance(self.input, str) else _messages(self.input)
        if self.instructions:
            text = self.instructions
            if messages and messages[0]["role"] == "system":
                text = f"{text}\n{messages.pop(0)['content']}"
            messages.insert(0, system(text))
        return messages

    def offered(self) -> list[ToolSchema]:
        """The tools that the model is shown."""
        if self.tool_choice == "none":
            return []
        return [{"type": "function", "function": tool.shown()} for tool in self.tools or ()]

    def wants_agents_tools(self) -> bool:
        """Whether an agent may call its own: clients of this protocol send an empty list for none given."""
        return not self.tools and self.tool_choice != "none"

    def json_schema(self) -> dict[str, Any] | None:
        """What the answer's text is to be: an empty schema is any object."""
        asked = self.text.format if self.text else None
        if isinstance(asked, SchemaFormat):
            return asked.schema_ or {}
        return {} if isinstance(asked, AnyJson) else None

    def sampling(self, defaults: Sampling) -> Sampling:
        """How to sample; what is not said is as ``defaults`` have it."""
        return replace(
            defaults,
            max_tokens=self.max_output_tokens or defaults.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            tool_choice=self.tool_choice.name
            if isinstance(self.tool_choice, ForcedByName)
            else self.tool_choice or "auto",
            json_schema=self.json_schema(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
        )


def _messages(items: Sequence[Item]) -> list[Message]:
    messages: list[Message] = []
    names: dict[str, str] = {}
    for item in items:
        if isinstance(item, MessageItem):
            messages.append(item.said())
        elif isinstance(item, FunctionCallItem):
            names[item.call_id] = item.name
            if not messages or messages[-1]["role"] != "assistant":
                messages.append(assistant(""))
            call = tool_call(item.name, item.arguments, item.call_id)
            messages[-1].setdefault("tool_calls", []).append(call)
        elif isinstance(item, FunctionCallOutputItem):
            name = names.get(item.call_id, "tool")
            said = text_of(item.output)
            messages.append({"role": "tool", "content": said, "name": name, "tool_call_id": item.call_id})
    return messages


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    type: Literal["message"] = "message"
    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(BaseModel):
    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class Failure(BaseModel):
    code: str
    message: str


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens"]


class InputDetails(BaseModel):
    cached_tokens: int = 0


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class ResponseOut(BaseModel):
    """The answer, and what was asked."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any] = {}
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float | None = None
    text: dict[str, Any] = {"format": {"type": "text"}}
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = []
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    tool_runs: list[ToolRun] | None = None
    """Not in OpenAI's protocol, and ignored by its clients: the agent's tools that were called for this."""


class ResponseEvent(BaseModel):
    """One event of a streamed response; what else it holds follows from its type."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: int
