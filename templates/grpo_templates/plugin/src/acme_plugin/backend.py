"""A backend: where the agent's words come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from grpo_sdk import (
    Backend,
    Capability,
    ChatReply,
    Message,
    ModelSpec,
    Sampling,
    ToolSchema,
    assistant,
)


class Adder(Backend):
    """Answers by a script: the sum of the numbers in the last message. It loads no model.

    It says what it can do, and the host refuses the rest: to be trained, it would need TOKEN_IDS,
    LOGPROBS and WEIGHT_SYNC. `form` is an option of agent.yaml.
    """

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS})

    def __init__(self, model: ModelSpec, *, form: str = "The sum is {}.") -> None:
        super().__init__(model)
        self._form = form

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        numbers = [int(digits) for digits in re.findall(r"\d{1,18}", messages[-1]["content"])]
        if not numbers:
            return ChatReply(assistant("I can only add numbers."))
        return ChatReply(assistant(self._form.format(sum(numbers))))
