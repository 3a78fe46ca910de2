from dataclasses import replace

import pytest

from grpo_sdk.altered import altered
from grpo_sdk.backend import Sampling
from grpo_sdk.errors import ConfigError
from grpo_sdk.trajectory import Task


def test_a_change_gives_what_replace_gives_and_leaves_the_original():
    first = Sampling(max_tokens=7, stop=("\n",), json_schema={"type": "object"})
    assert altered(first, seed=3) == replace(first, seed=3)
    assert first.seed is None


def test_subclasses_stay_what_they_are():
    class Own(Task):
        pass

    assert type(altered(Own("a"), split="held_out")) is Own


def test_nothing_is_checked_again():
    with pytest.raises(ConfigError):
        replace(Sampling(), seed="1")
    assert altered(Sampling(), seed="1").seed == "1"
