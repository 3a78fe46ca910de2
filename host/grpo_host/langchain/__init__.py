"""LangChain: our models and agents inside its apps. Needs langchain-core alone."""

from __future__ import annotations

from grpo_host.langchain.chat import ChatGrpo

__all__ = ["ChatGrpo"]
