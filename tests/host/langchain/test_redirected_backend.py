"""A backend on a chat model of LangChain's, while an app's models are redirected."""

from __future__ import annotations

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from grpo_backends.langchain_chat import LangChainBackend
from grpo_host.agents.model_calls import NoEpisodeError
from grpo_host.langchain import ChatGrpo
from grpo_host.langchain.redirect import Redirect
from grpo_sdk import Sampling, user
from grpo_sdk.testing import ScriptedBackend


@pytest.fixture
def redirected():
    redirect = Redirect([], ChatGrpo(backend=ScriptedBackend()))
    redirect.install()
    yield
    redirect.restore()


async def test_a_judge_is_asked_outside_of_episodes_and_an_app_is_not(redirected):
    model = GenericFakeChatModel(messages=iter([AIMessage("Good."), AIMessage("Good.")]))
    judge = LangChainBackend(model)

    reply = await judge.chat([user("How was it?")], Sampling())
    pieces = []
    async for piece in judge.stream([user("How was it?")], Sampling()):
        pieces.append(piece)
        with pytest.raises(NoEpisodeError):  # what hears the judge makes no judge's calls
            await model.ainvoke("Hi")

    assert reply.message["content"] == "Good."
    assert pieces[-1].message["content"] == "Good."
