"""Compute how much of a model's context a prompt leaves for the answer."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_sdk import ContextOverflowError, ModelSpec


def room_for_answer(prompt: Sequence[int], model: ModelSpec) -> int:
    """Tokens left, at least 1. Raises ``ContextOverflowError`` if there are none.

    Raises ``ValueError`` if the prompt is empty.
    """
    if not prompt:
        raise ValueError("the prompt is empty; a prompt has at least one token id")
    room = model.context - len(prompt)
    if room < 1:
        raise ContextOverflowError(
            f"the prompt has {len(prompt)} tokens and the context {model.context}: no room for an "
            "answer. Raise model.context in agent.yaml, or keep the conversation shorter"
        )
    return room
