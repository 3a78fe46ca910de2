"""What ``/v1`` speaks: the part of OpenAI's chat protocol that is honoured, field by field.

A field that would change the answer and cannot be honoured is an error, never ignored; one that is null or
empty is not there. Fields that only concern OpenAI's own service are taken and do nothing: ``user``,
``metadata``, ``store``, ``service_tier``, ``safety_identifier`` and ``prompt_cache_key``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_host.openai_protocol.messages import Asked, MessageIn, Name, conversation
from grpo_host.openai_protocol.tool_runs import ToolRun
from grpo_sdk.backend import Sampling
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.schemas import object_schema

Label = Annotated[str, Field(max_length=200)]


class FunctionDefinition(Asked):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=10_000)] | None = None
    parameters: dict[str, Any] | bool | Annotated[list[Any], Field(max_length=0)] | None = None
    """A JSON schema. An empty list is PHP's empty object."""
    strict: bool | None = None
    """It changes nothing: arguments keep to the schema where a call is forced, with it or without."""

    def shown(self) -> dict[str, Any]:
        """The function as a model is shown it."""
        return {
            "name": self.name,
            "description": self.description or "",
            "parameters": object_schema(self.parameters),
        }


class ToolDefinition(Asked):
    type: Literal["function"]
    function: FunctionDefinition
    cache_control: dict[str, Any] | None = None
    """Of other servers: it does nothing here."""


class StreamOptions(Asked):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class PlainText(Asked):
    type: Literal["text"]


class AnyJson(Asked):
    type: Literal["json_object"]
    """The answer is a JSON object."""


class NamedSchema(Asked):
    name: Label
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """None: any JSON object."""
    description: Annotated[str, Field(max_length=10_000)] | None = None
    strict: bool | None = None
    """The answer keeps to the schema, whether this is true or not."""


class JsonOfSchema(Asked):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | AnyJson | JsonOfSchema, Field(discriminator="type")]


class ForcedFunction(Asked):
    name: Name


class ForcedTool(Asked):
    type: Literal["function"]
    function: ForcedFunction


def chosen(tool_choice: Any) -> str:
    """As ``Sampling.tool_choice``."""
    if isinstance(tool_choice, ForcedTool):
        return tool_choice.function.name
    return tool_choice or "auto"


class ChatCompletionRequest(Asked):
    """A conversation to be gone on with."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "", "messages": [{"role": "user", "content": "Hello"}]}]}
    )
    FORMAT: ClassVar[str] = "response_format"

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=2048)]
    model: Name
    """One of GET /v1/models."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stop: Label | Annotated[list[Label], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=128)] | None = None
    """Of the caller, who runs them. Without any, an agent calls its own tools, and the server runs them."""
    tool_choice: Literal["none", "auto", "required"] | ForcedTool | None = None
    """required, or a function: the answer calls a tool of the caller's. none: no tools, the agent's own
    included."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    """Only the sampled token's."""
    response_format: ResponseFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: Label | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    parallel_tool_calls: bool | None = None
    """False: at most one call of the caller's tools an answer."""
    modalities: list[Literal["text"]] | None = None

    def conversation(self) -> list[Message]:
        """The messages as agents have them."""
        return conversation(self.messages)

    def offered(self) -> list[ToolSchema]:
        """The tools that the model is shown."""
        if self.tool_choice == "none":
            return []
        return [{"type": "function", "function": tool.function.shown()} for tool in self.tools or ()]

    def wants_agents_tools(self) -> bool:
        """Whether an agent may call its own."""
        return self.tools is None and self.tool_choice != "none"

    def json_schema(self) -> dict[str, Any] | None:
        """What the answer's text is to be: an empty schema is any object."""
        if isinstance(self.response_format, JsonOfSchema):
            return self.response_format.json_schema.schema_ or {}
        return {} if isinstance(self.response_format, AnyJson) else None

    def stops(self) -> tuple[str, ...]:
        """Where an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    def sampling(self, defaults: Sampling) -> Sampling:
        """How to sample; what is not said is as ``defaults`` have it."""
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or defaults.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k,
            stop=self.stops(),
            seed=None if self.seed is None else self.seed % 2**31,
            tool_choice=chosen(self.tool_choice),
            json_schema=self.json_schema(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
        )


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any]


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionCallOut(BaseModel):
    name: str
    arguments: str


class CallOut(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCallOut


class MessageOut(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None = None
    """Left out if there are only calls."""
    refusal: None = None
    tool_calls: list[CallOut] | None = None
    """Of the caller's tools."""
    tool_runs: list[ToolRun] | None = None
    """Not in OpenAI's protocol, and ignored by its clients: the agent's tools that were called for this."""

    @classmethod
    def of(
        cls, text: str, calls: Iterable[Mapping[str, Any]], tool_runs: list[ToolRun] | None = None
    ) -> MessageOut:
        asked = [CallOut.model_validate(call) for call in calls]
        content = text if text or not asked else None
        return cls(content=content, tool_calls=asked or None, tool_runs=tool_runs or None)


class Choice(BaseModel):
    index: int
    message: MessageOut
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: Logprobs | None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, completion: int) -> Usage:
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatCompletion(BaseModel):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ChunkChoice(BaseModel):
    index: int
    delta: dict[str, Any]
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    logprobs: Logprobs | None = None


class ChatCompletionChunk(BaseModel):
    """A piece of streamed answers."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["grpo-host"] = "grpo-host"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
