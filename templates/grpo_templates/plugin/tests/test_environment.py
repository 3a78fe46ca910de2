"""What the host relies on: an inherited test that fails says how to mend it."""

from __future__ import annotations

import asyncio

import pytest
from grpo_sdk import Environment, Task, assistant
from grpo_sdk.testing import EnvironmentContract

from acme_plugin.environment import Sums


class TestSums(EnvironmentContract):
    def make(self) -> Environment:
        return Sums(attempts=3)


@pytest.mark.parametrize(("said", "success"), [("2 + 5 is 7.", True), ("17", False), ("Hm", False)])
def test_the_last_number_of_the_answer_is_judged(said: str, success: bool) -> None:
    async def play() -> bool:
        environment = Sums()
        await environment.reset(Task("2+5", {"question": "What is 2 + 5?", "answer": 7}), seed=0)
        result = await environment.step(assistant(said))
        assert result.done
        return bool(result.outcome["success"])

    assert asyncio.run(play()) is success
