"""What a ``GrpoAgent`` is asked and answers, in LangChain's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.version import VERSION

from grpo_sdk.errors import ConfigError

Asked: TypeAlias = "str | PromptValue | BaseMessage | Sequence[Any] | Mapping[str, Any]"
Answered: TypeAlias = "AIMessage | dict[str, Any]"


def asked_messages(given: Asked) -> list[BaseMessage]:
    """The messages that an agent is asked with. Raises ``ConfigError`` for a state without any."""
    if isinstance(given, Mapping):
        if "messages" not in given:
            keys = ", ".join(map(str, given)) or "none"
            raise ConfigError(f"a state has the key messages; the keys of this one: {keys}")
        return convert_to_messages(given["messages"])
    if isinstance(given, str):
        return [HumanMessage(given)]
    if isinstance(given, PromptValue):
        return given.to_messages()
    return [given] if isinstance(given, BaseMessage) else convert_to_messages(given)


def thread_of(config: RunnableConfig) -> str | None:
    """The conversation that is kept here; a graph's thread is its own, and it keeps its own messages."""
    configurable = config.get("configurable") or {}
    if any(str(key).startswith("__pregel_") for key in configurable):
        return None
    thread = configurable.get("thread_id")
    return None if thread is None else str(thread)


def as_chunk(piece: str | Answered, given: Asked) -> Any:
    """``piece`` of an answer to ``given`` as a stream gives it; None: not at all."""
    if not isinstance(piece, str):
        return _last(piece)
    return None if isinstance(given, Mapping) else AIMessageChunk(content=piece)


def _last(answer: Answered) -> Any:
    """The end of a stream: all but the text, which has been given; a state is given whole."""
    if not isinstance(answer, AIMessage):
        return answer
    return AIMessageChunk(
        content="",
        name=answer.name,
        usage_metadata=answer.usage_metadata,
        response_metadata=answer.response_metadata,
        chunk_position="last",
    )


def events_v3(given: Asked) -> ModuleType:
    """The module that makes events of version v3. Raises ``ConfigError`` if ``given`` has none."""
    if isinstance(given, Mapping):
        raise ConfigError(
            "events of version v3 tell of one message, and a state is answered by one: give its messages, "
            "or ask for version v2"
        )
    try:
        from grpo_host.langchain import events
    except ImportError as problem:  # what makes them is internal to langchain-core, and not in every 1.x
        raise ConfigError(
            f"events of version v3 need another langchain-core than {VERSION}: pip install -U "
            "langchain-core, or ask for version v2"
        ) from problem
    return events


def refuse(kwargs: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for arguments that no agent takes."""
    if kwargs:
        raise ConfigError(f"a GrpoAgent takes no {', '.join(kwargs)}: its agent.yaml says how it works")
