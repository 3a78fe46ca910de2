"""Numbers are checked where a caller gives them."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_sdk import ConfigError, Sampling
from grpo_sdk.tools import ToolLimits


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Sampling, {"max_tokens": "8"}, "max_tokens must be a whole number, not '8'"),
        (Sampling, {"max_tokens": 8.0}, r"max_tokens must be a whole number, not 8\.0"),
        (Sampling, {"temperature": "0.5"}, r"temperature must be a number, not '0\.5'"),
        (Sampling, {"temperature": None}, "temperature must be a number, not None"),
        (Sampling, {"top_p": True}, "top_p must be a number, not True"),
        (Sampling, {"top_k": "3"}, "top_k must be a whole number, not '3'"),
        (Sampling, {"seed": "7"}, "seed must be a whole number, not '7'"),
        (ToolLimits, {"seconds": "8"}, "a tool's limit in seconds must be a number, not '8'"),
        (ToolLimits, {"output_chars": "8"}, "a tool's limit in characters must be a whole number, not '8'"),
        (ToolLimits, {"parallel": "8"}, "tools that run at the same time must be a whole number, not '8'"),
    ],
)
def test_text_in_the_place_of_a_number_is_named(kind, given, said):
    with pytest.raises(ConfigError, match=said):
        kind(**given)


def test_numbers_of_other_libraries_are_numbers():
    sampling = Sampling(max_tokens=np.int64(8), temperature=np.float32(0.5), top_p=1, seed=None)
    assert (sampling.max_tokens, sampling.temperature) == (8, 0.5)
