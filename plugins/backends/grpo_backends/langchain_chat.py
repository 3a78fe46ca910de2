"""The backend ``langchain``: any chat model of LangChain's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends.errors import ProviderError, TooLongError
from grpo_sdk import (
    Backend,
    Capability,
    ChatReply,
    ConfigError,
    GrpoError,
    Message,
    MissingExtraError,
    ModelSpec,
    Sampling,
    ToolSchema,
)
from grpo_sdk.backend import FinishReason
from grpo_sdk.blocking import call_blocking
from grpo_sdk.langchain_calls import OF_A_BACKEND

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")
CONTEXT = 8192
"""Tokens, of a model whose profile does not say."""
_CUT = {"length", "max_tokens", "MAX_TOKENS", "max_output_tokens"}
"""How providers say that an answer was cut."""


class LangChainBackend(Backend):
    """A chat model: an object, or one that LangChain's ``init_chat_model`` makes from ``provider:model``.

    ``parameters`` are passed to ``init_chat_model``, such as ``base_url``. ``leave_out`` names the sampling
    settings that the model does not take: any of max_tokens, temperature, top_p, top_k, stop and seed.
    """

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS, Capability.STREAMING, Capability.PARTS})
    requires: ClassVar[tuple[str, ...]] = ("langchain",)
    extra: ClassVar[str] = "langchain"

    def __init__(
        self,
        model: ModelSpec | BaseChatModel,
        *,
        parameters: dict[str, Any] | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        self._given = None if isinstance(model, ModelSpec) else model
        super().__init__(model if isinstance(model, ModelSpec) else _spec(model))
        unknown = [name for name in leave_out if name not in SETTINGS]
        if unknown:
            raise ConfigError(f"leave_out names {', '.join(unknown)}, and can name {', '.join(SETTINGS)}")
        self._parameters = dict(parameters or {})
        self._leave_out = frozenset(leave_out)
        self._model = self._given

    async def start(self) -> None:
        if self._model is None:
            self._model = await call_blocking(_made, self.model.name, self._parameters)

    async def close(self) -> None:
        self._model = self._given

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        """Raises ``ProviderError``, or ``ContextOverflowError`` if the conversation is too long."""
        from grpo_sdk.langchain_messages import from_messages

        bound = self._bound(tools, sampling)
        with self._explained():
            answer = bound.ainvoke(from_messages(messages), _UNWATCHED, **self._settings(sampling))
            said = await asyncio.create_task(answer, context=_own_context())
        return self._reply(said)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        """As ``chat``."""
        from grpo_sdk.langchain_messages import from_messages

        whole: Any = None
        bound = self._bound(tools, sampling)
        with self._explained():
            own = _own_context()
            pieces = bound.astream(from_messages(messages), _UNWATCHED, **self._settings(sampling))
            try:
                while (piece := await asyncio.create_task(anext(pieces, None), context=own)) is not None:
                    whole = piece if whole is None else whole + piece
                    if piece.text:
                        yield str(piece.text)
            finally:
                await asyncio.create_task(pieces.aclose(), context=own)
        if whole is None:
            raise ProviderError(f"{self.model.name} gave no answer")
        yield self._reply(whole)

    def _bound(self, tools: Sequence[ToolSchema], sampling: Sampling) -> Any:
        if self._model is None:
            raise RuntimeError("the backend langchain is not running; await start() first")
        if not tools or sampling.tool_choice == "none":
            return self._model
        return self._model.bind_tools([dict(tool) for tool in tools])

    def _settings(self, sampling: Sampling) -> dict[str, Any]:
        """As LangChain's models take them with a call; those that ask for nothing are not sent."""
        wanted = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "top_k": sampling.top_k or None,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed,
        }
        return {
            name: value for name, value in wanted.items() if value is not None and name not in self._leave_out
        }

    def _reply(self, said: AIMessage) -> ChatReply:
        from grpo_sdk.langchain_messages import to_messages

        (message,) = to_messages([said])
        message.pop("name", None)
        about = said.response_metadata
        reason = about.get("finish_reason") or about.get("stop_reason") or about.get("done_reason")
        finish = FinishReason.LENGTH if reason in _CUT else FinishReason.STOP
        if message.get("tool_calls"):
            finish = FinishReason.TOOL_CALLS
        usage: Mapping[str, Any] = said.usage_metadata or {}
        return ChatReply(message, finish, usage.get("input_tokens", 0), usage.get("output_tokens", 0))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a provider's library raises, as the errors that backends raise."""
        from langchain_core.exceptions import ContextOverflowError

        try:
            yield
        except GrpoError:
            raise
        except Exception as problem:
            kind = TooLongError if isinstance(problem, ContextOverflowError) else ProviderError
            status = getattr(problem, "status_code", None)
            raise kind(
                f"{self.model.name}: {type(problem).__name__}: {problem}"[:500],
                status=status if isinstance(status, int) else None,
            ) from problem


_UNWATCHED: Any = {"callbacks": []}
"""The call is one of a backend, which whoever asks it tells its callbacks of."""


def _own_context() -> Context:
    """That of a call that no app makes."""
    context = copy_context()
    context.run(OF_A_BACKEND.set, True)
    return context


def _spec(model: BaseChatModel) -> ModelSpec:
    name = next(
        (
            found
            for key in ("model_name", "model", "model_id")
            if isinstance(found := getattr(model, key, None), str)
        ),
        type(model).__name__,
    )
    context = (model.profile or {}).get("max_input_tokens")
    return ModelSpec(name, context=context or CONTEXT)


def _made(name: str, parameters: Mapping[str, Any]) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError:
        raise MissingExtraError("the backend langchain", "langchain", "langchain") from None
    try:
        made: BaseChatModel = init_chat_model(name, **parameters)
    except ImportError as problem:
        raise ConfigError(f'the chat model "{name}": {problem}') from problem
    except ValueError as problem:
        said = str(problem).partition("\n")[0]
        raise ConfigError(
            f'the chat model "{name}": {said} Name it as LangChain does, such as openai:gpt-5-mini'
        ) from problem
    return made
