"""LangChain: our models and agents inside its apps. Needs langchain-core alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpo_host.langchain.chat import ChatGrpo

if TYPE_CHECKING:
    from grpo_host.langchain.agent import GrpoAgent
    from grpo_host.langchain.recorder import TrajectoryRecorder, add_feedback

__all__ = ["ChatGrpo", "GrpoAgent", "TrajectoryRecorder", "add_feedback"]


def __getattr__(name: str) -> Any:
    if name == "GrpoAgent":  # it brings the whole host, which a chat model does not need
        from grpo_host.langchain.agent import GrpoAgent

        return GrpoAgent
    if name in ("TrajectoryRecorder", "add_feedback"):
        from grpo_host.langchain import recorder

        return getattr(recorder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
