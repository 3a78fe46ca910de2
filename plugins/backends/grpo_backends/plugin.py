"""The backends that come with the framework."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_sdk import Backend, hookimpl


@hookimpl
def grpo_backends() -> Mapping[str, type[Backend]]:
    """Offer the built-in backends; their engines are imported when one of them starts."""
    from grpo_backends.langchain_chat import LangChainBackend
    from grpo_backends.litellm_chat import LiteLLMBackend
    from grpo_backends.openai_http import OpenAIChatBackend
    from grpo_backends.transformers_engine import TransformersBackend
    from grpo_backends.vllm_engine import VllmBackend
    from grpo_backends.vllm_server import VllmServerBackend
    from grpo_sdk.testing import ScriptedBackend

    return {
        "vllm": VllmBackend,
        "vllm_server": VllmServerBackend,
        "transformers": TransformersBackend,
        "openai": OpenAIChatBackend,
        "litellm": LiteLLMBackend,
        "langchain": LangChainBackend,
        "scripted": ScriptedBackend,
    }
