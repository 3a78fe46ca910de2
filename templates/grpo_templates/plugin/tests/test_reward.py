"""What the host relies on: an inherited test that fails says how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from grpo_sdk import Reward, RewardResult, Task
from grpo_sdk.testing import RewardContract, make_trajectory

from acme_plugin.reward import right_number


class TestRightNumber(RewardContract):
    data: ClassVar[Mapping[str, Any]] = {"answer": 4}

    def make(self) -> Reward:
        return right_number(near=1.0)


@pytest.mark.parametrize(
    ("said", "value"),
    [("It is 4.", 1.0), ("Not 5 but 4.0", 1.0), ("5", 0.5), ("6", 0.0), ("I do not know.", 0.0)],
)
def test_the_last_number_counts(said: str, value: float) -> None:
    trajectory = make_trajectory(said, task=Task("2+2", {"answer": 4}))
    result = right_number(near=1.0).score(trajectory)
    assert isinstance(result, RewardResult)
    assert result.value == value
