"""LangChain's own tests of chat models on the embedded model: one for each thing that they ask for.

All of them, which take minutes there, pass on a scripted backend: see test_standard.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from grpo_host.langchain import ChatGrpo

pytestmark = pytest.mark.model


class Suite(ChatModelIntegrationTests):
    """Theirs, for the embedded model. It is small: it says what it likes, in the form that is asked for."""

    __test__ = False

    @property
    def chat_model_class(self) -> type[ChatGrpo]:
        return ChatGrpo

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m", "backend": "transformers", "temperature": 0, "max_tokens": 32}


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[ChatGrpo]:
    """The model, loaded once: models of one name share it as long as one of them lives."""
    made = ChatGrpo(**Suite().chat_model_params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing transformers imports what is deprecated elsewhere
        made.invoke("Hello")
    yield made
    made.close()


@pytest.mark.parametrize(
    "name",
    [
        "test_stream",
        "test_stream_events_v3",
        "test_batch",
        "test_double_messages_conversation",
        "test_usage_metadata",
        "test_stop_sequence",
        "test_tool_calling_with_no_arguments",
        "test_message_with_name",
    ],
)
def test_the_embedded_model_passes(name: str, model: ChatGrpo) -> None:
    getattr(Suite(), name)(model)
