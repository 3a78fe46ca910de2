from __future__ import annotations

import pytest

from grpo_sdk import record_reward
from grpo_sdk.recording import recording


def test_rewards_of_one_name_add_up_within_an_episode():
    recorded: dict[str, float] = {}
    with recording(recorded):
        assert record_reward("tone", 0.5)
        assert record_reward("tone", 1)
    assert not record_reward("tone", 7)
    assert recorded == {"tone": 1.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_what_is_no_finite_number_is_refused_where_it_is_recorded(value):
    with pytest.raises(ValueError, match=r"the reward tone is .*; record a finite number"):
        record_reward("tone", value)
