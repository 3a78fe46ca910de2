from __future__ import annotations

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.assembly.from_python.agents import as_agent, is_trainable
from grpo_sdk import ConfigError, ModelSpec, user
from grpo_sdk.testing import ScriptedBackend


class Echo:
    async def generate_response(self, prompt):
        return f"you said {prompt}"


async def say(agent, text):
    conversation = (await as_agent(agent)).open()
    return await conversation.act([user(text)])


async def test_an_object_that_responds_is_an_agent():
    assert (await say(Echo(), "hello"))["content"] == "you said hello"


async def test_an_object_that_gets_ready_is_the_agent_behind_it():
    inner = Agent(ScriptedBackend())

    class Ready:
        async def ready(self):
            return inner

    assert await as_agent(Ready()) is inner
    assert await as_agent(inner) is inner


async def test_an_answer_that_is_no_text_says_what_to_mend():
    class Wrong:
        async def generate_response(self, prompt):
            return None

    with pytest.raises(TypeError, match="an answer is a text, not None; mend generate_response"):
        await say(Wrong(), "hello")


@pytest.mark.parametrize("wrong", [Echo, "gpt2", None], ids=["class", "name", "nothing"])
async def test_what_is_no_agent_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"is no agent. Give a MultiTurnAgent, or an object with"):
        await as_agent(wrong)


def test_only_a_backend_of_tokens_with_a_local_model_can_be_trained(fakes, tmp_path):
    backend = fakes.TokenBackend(fakes.PieceTokenizer())
    assert not is_trainable(Agent(backend))
    backend.model = ModelSpec("local", path=tmp_path)
    assert is_trainable(Agent(backend))
    assert not is_trainable(Agent(ScriptedBackend()))
