"""Answers calls of an app's chat models with the policy, and lets no other model be called unseen.

An app that made its models when it was imported is trained with no change to it: while a ``Redirect`` is
installed, what every class of chat models does to ask its provider first looks whether the call is the
policy's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, closing, suppress
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models._compat_bridge import achunks_to_events, chunks_to_events
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_json_schema

from grpo_host.agents.model_calls import NoEpisodeError, current_calls, within_episode
from grpo_host.langchain.asking import response_schema, tool_schemas
from grpo_host.langchain.chat import ChatGrpo
from grpo_sdk.errors import ConfigError, GrpoError
from grpo_sdk.langchain_calls import OF_A_BACKEND

Others = Literal["refuse", "keep"]


class RefusedModelError(GrpoError):
    """An app called a model whose calls are not recorded."""


class Redirect:
    """Answers the models called ``names`` (``provider:model``) with ``policy``, within an episode.

    ``others``: whether all other models are refused or kept as they are. There is one at a time.
    """

    _installed: Redirect | None = None

    def __init__(self, names: Collection[str], policy: ChatGrpo, others: Others = "refuse") -> None:
        self._names = frozenset(names)
        self._policy = policy
        self._others = others
        self._kept: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        """Patch all classes of chat models, those that are imported later included."""
        if Redirect._installed is not None:
            raise RuntimeError("the models of another app are redirected in this process")
        Redirect._installed = self
        for model in _with_those_below(BaseChatModel):  # type: ignore[type-abstract]
            self._patch(model)
        inherited = BaseChatModel.__pydantic_init_subclass__.__func__  # type: ignore[attr-defined]

        def patch_new(cls: type[Any], /, **options: Any) -> None:
            inherited(cls, **options)
            self._patch(cls)

        self._put(BaseChatModel, "__pydantic_init_subclass__", classmethod(patch_new))

    def restore(self) -> None:
        """Undo ``install``: every class is as it was."""
        for model, name, value in reversed(self._kept):
            if value is None:
                delattr(model, name)
            else:
                setattr(model, name, value)
        self._kept.clear()
        if Redirect._installed is self:
            Redirect._installed = None

    def _put(self, model: type, name: str, value: Any) -> None:
        self._kept.append((model, name, model.__dict__.get(name)))
        setattr(model, name, value)

    def _patch(self, model: type[BaseChatModel]) -> None:
        if issubclass(model, ChatGrpo):
            return
        for name, wrapped in _WRAPPED.items():
            own = model.__dict__.get(name)
            if own is not None and not getattr(own, "__isabstractmethod__", False):
                self._put(model, name, functools.wraps(own)(wrapped(self, own)))

    def policy_for(self, model: BaseChatModel, kwargs: Mapping[str, Any]) -> ChatGrpo | None:
        """The policy, if it answers this call of ``model``; None: the model answers itself.

        Raises ``NoEpisodeError`` or ``RefusedModelError`` if it may not be called.
        """
        if OF_A_BACKEND.get():  # a judge's, say
            return None
        name = _name(model, kwargs)
        if name in self._names:
            current_calls()  # raises outside of an episode
            return self._policy
        if self._others == "keep":
            return None
        if not within_episode():
            raise NoEpisodeError(
                f"{name} was called outside of an episode, or in a thread that does not know its episode, "
                "and was not asked. Begin threads with LangChain's executors or batch(), or set "
                "agent.others to keep if such calls are meant"
            )
        error = RefusedModelError(
            f"the app called {name}, whose calls nothing records; it was not asked. Name it in "
            "agent.redirect to train it, or set agent.others to keep"
        )
        current_calls().end(error)
        raise error


def _with_those_below(model: type[BaseChatModel]) -> Iterator[type[BaseChatModel]]:
    yield model
    for below in model.__subclasses__():
        yield from _with_those_below(below)


def _name(model: BaseChatModel, kwargs: Mapping[str, Any]) -> str:
    """``provider:model``, as ``init_chat_model`` takes it."""
    said = {key: kwargs[key] for key in ("model",) if key in kwargs}
    known = model._get_ls_params(**said)
    return f"{known.get('ls_provider', type(model).__name__)}:{known.get('ls_model_name', '')}"


def _asked(model: BaseChatModel, stop: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of ``model``, and the model itself, ask for, as the policy takes it.

    Raises ``ConfigError`` for what it cannot do.
    """
    asked = {key: value for key, value in kwargs.items() if key not in ("model", "stream")}
    if stop is not None:
        asked["stop"] = stop
    for field in ("max_tokens", "stop"):
        own = getattr(model, field, None)
        if own is not None:
            asked.setdefault(field, own)
    number = asked.pop("n", None) or getattr(model, "n", None) or 1
    if number != 1:
        raise ConfigError(f"the app asks for {number} answers at once, and an episode takes one; leave out n")
    if asked.get("tools"):
        asked["tools"] = tool_schemas(asked["tools"])
    if isinstance(shape := asked.get("response_format"), type):
        schema = convert_to_json_schema(shape)
        asked["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return asked


def _note(message: Any, text: str, asked: Mapping[str, Any]) -> None:
    """Put a structured answer where ``ChatOpenAI`` expects it."""
    if response_schema(asked.get("response_format")) is None:
        return
    with suppress(ValueError):
        parsed = json.loads(text)
        if isinstance(parsed, dict):
            message.additional_kwargs = {**message.additional_kwargs, "parsed": parsed}


# What follows stands in the place of the methods of the same names.


def _generate(redirect: Redirect, own: Callable[..., ChatResult]) -> Callable[..., ChatResult]:
    def generate(
        self: BaseChatModel, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        policy = redirect.policy_for(self, kwargs)
        if policy is None:
            return own(self, messages, stop, run_manager, **kwargs)
        asked = _asked(self, stop, kwargs)
        result = policy._generate(messages, run_manager=run_manager, **asked)
        _note(result.generations[0].message, result.generations[0].text, asked)
        return result

    return generate


def _agenerate(redirect: Redirect, own: Callable[..., Any]) -> Callable[..., Any]:
    async def agenerate(
        self: BaseChatModel, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        policy = redirect.policy_for(self, kwargs)
        if policy is None:
            result: ChatResult = await own(self, messages, stop, run_manager, **kwargs)
            return result
        asked = _asked(self, stop, kwargs)
        result = await policy._agenerate(messages, run_manager=run_manager, **asked)
        _note(result.generations[0].message, result.generations[0].text, asked)
        return result

    return agenerate


def _stream(redirect: Redirect, own: Callable[..., Any]) -> Callable[..., Any]:
    def stream(
        self: BaseChatModel, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        policy = redirect.policy_for(self, kwargs)
        if policy is None:
            yield from own(self, messages, stop, run_manager, **kwargs)
            return
        text = ""
        asked = _asked(self, stop, kwargs)
        chunks: Any = policy._stream(messages, run_manager=run_manager, **asked)
        with closing(chunks):
            for chunk in chunks:
                text += chunk.text
                if chunk.message.chunk_position == "last":
                    _note(chunk.message, text, asked)
                yield chunk

    return stream


def _astream(redirect: Redirect, own: Callable[..., Any]) -> Callable[..., Any]:
    async def astream(
        self: BaseChatModel, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        policy = redirect.policy_for(self, kwargs)
        if policy is None:
            async for chunk in own(self, messages, stop, run_manager, **kwargs):
                yield chunk
            return
        text = ""
        asked = _asked(self, stop, kwargs)
        chunks: Any = policy._astream(messages, run_manager=run_manager, **asked)
        async with aclosing(chunks):
            async for chunk in chunks:
                text += chunk.text
                if chunk.message.chunk_position == "last":
                    _note(chunk.message, text, asked)
                yield chunk

    return astream


def _events(redirect: Redirect, own: Callable[..., Any]) -> Callable[..., Any]:
    def events(self: BaseChatModel, messages: Any, **kwargs: Any) -> Iterator[Any]:
        if redirect.policy_for(self, kwargs) is None:
            return own(self, messages, **kwargs)  # type: ignore[no-any-return]
        return chunks_to_events(self._stream(messages, **kwargs))

    return events


def _aevents(redirect: Redirect, own: Callable[..., Any]) -> Callable[..., Any]:
    def aevents(self: BaseChatModel, messages: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if redirect.policy_for(self, kwargs) is None:
            return own(self, messages, **kwargs)  # type: ignore[no-any-return]
        return achunks_to_events(self._astream(messages, **kwargs))

    return aevents


_WRAPPED: dict[str, Callable[[Redirect, Any], Callable[..., Any]]] = {
    "_generate": _generate,
    "_agenerate": _agenerate,
    "_stream": _stream,
    "_astream": _astream,
    "_stream_chat_model_events": _events,
    "_astream_chat_model_events": _aevents,
}
