"""Whose backend failed, in which method."""

from __future__ import annotations

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.agents.backend_failure import failed_call
from grpo_sdk import Capability, user
from grpo_sdk.testing import ScriptedBackend


class Parrot(ScriptedBackend):
    capabilities = frozenset({*ScriptedBackend.capabilities, Capability.STREAMING})

    async def chat(self, messages, sampling, tools=()):
        raise LookupError("no words")

    async def stream(self, messages, sampling, tools=()):
        yield "Hel"
        raise LookupError("no words")


@pytest.mark.parametrize(("on_text", "method"), [(None, "chat"), (lambda text: None, "stream")])
async def test_what_a_call_raises_bears_the_name_of_the_backend_and_of_the_method(on_text, method):
    conversation = Agent(Parrot()).open()
    with pytest.raises(LookupError) as raised:
        await conversation.act([user("Speak!")], on_text)
    said = failed_call(raised.value)
    assert said is not None
    assert said[0] == f'backend "Parrot": {method}()'
