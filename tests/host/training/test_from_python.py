from __future__ import annotations

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_host.agents.agent import Agent
from grpo_host.backends.threaded import ThreadedBackend
from grpo_host.training.from_python import _portable
from grpo_sdk import ModelSpec
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import ScriptedBackend


class Alone(ScriptedBackend):
    """A backend that, like vLLM's, cannot be in one of several ranks."""


def agent_on(model, *, chosen):
    return Agent(ThreadedBackend(Alone(model), chosen=chosen))


def test_ranks_play_on_transformers_where_nobody_asked_for_a_backend(tmp_path):
    model = ModelSpec("mine", path=tmp_path, adapter=tmp_path / "adapter")
    portable = _portable(agent_on(model, chosen=True)).backend
    assert portable.kind is TransformersBackend
    assert portable.model == model


def test_a_backend_that_was_asked_for_and_cannot_be_in_ranks_is_refused():
    with pytest.raises(CapabilityError, match="use transformers there, or train with world_size 1"):
        _portable(agent_on(ModelSpec("mine"), chosen=False))
