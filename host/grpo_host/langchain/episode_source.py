"""Answers a chat model with the policy of the episode that is being played."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpo_host.agents.model_calls import current_calls
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.speakers import speakers_in_text
from grpo_host.langchain.source import CALLER, Overrides
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.messages import Message, ToolSchema

OF_THE_RUN = frozenset({"temperature", "top_p", "top_k", "seed"})
"""What agent.yaml says and no app: samples for training come from one known distribution."""


class EpisodeSource:
    """Answers with the policy of the episode in whose context it is asked.

    Raises ``NoEpisodeError`` outside of one.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        return self._backend.model.name

    @property
    def context(self) -> int | None:
        return self._backend.model.context

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._backend.capabilities

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return current_calls().loop

    async def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        overrides: Overrides,
        on_text: OnText | None = None,
    ) -> Reply:
        calls = current_calls()
        if Capability.TOKEN_IDS in self.capabilities:
            messages = speakers_in_text(messages)

        def adjust(sampling: Sampling) -> Sampling:
            said = {key: value for key, value in overrides.items() if key not in OF_THE_RUN}
            if "max_tokens" in said:
                said["max_tokens"] = min(said["max_tokens"], sampling.max_tokens)
            return replace(sampling, **said)

        caller = CALLER.get({})
        answer = calls.respond(
            messages, tools, adjust, on_text, role=role_of(caller), aside=_is_aside(caller)
        )
        if asyncio.get_running_loop() is calls.loop:
            return await answer
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer, calls.loop))


def role_of(metadata: Mapping[str, Any]) -> str:
    """Whose call this is: a middleware's purpose, an agent's name or the name of a graph's node."""
    for key in ("lc_source", "lc_agent_name", "langgraph_node"):
        if value := metadata.get(key):
            return str(value)
    return ""


def _is_aside(metadata: Mapping[str, Any]) -> bool:
    """Whether the call is a middleware's own, or of a graph within the app's."""
    return bool(metadata.get("lc_source")) or "|" in str(metadata.get("langgraph_checkpoint_ns", ""))
