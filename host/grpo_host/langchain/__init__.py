"""LangChain: our models and agents inside its apps. Needs langchain-core alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpo_host.langchain.chat import ChatGrpo

if TYPE_CHECKING:
    from grpo_host.langchain.agent import GrpoAgent

__all__ = ["ChatGrpo", "GrpoAgent"]


def __getattr__(name: str) -> Any:
    if name == "GrpoAgent":  # it brings the whole host, which a chat model does not need
        from grpo_host.langchain.agent import GrpoAgent

        return GrpoAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
