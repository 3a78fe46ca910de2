"""What the host relies on: an inherited test that fails says how to mend it."""

from __future__ import annotations

from grpo_sdk import Backend, ModelSpec, Sampling, user
from grpo_sdk.testing import BackendContract

from acme_plugin.backend import Adder


class TestAdder(BackendContract):
    limits_answers = False  # it answers by a script

    def make(self) -> Backend:
        return Adder(ModelSpec("none"))

    def test_it_adds(self) -> None:
        reply = self.run(self.backend.chat([user("What is 2 + 40?")], Sampling()))
        assert reply.message["content"] == "The sum is 42."
