"""Vectors without a model."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_rewards.embedders import HashingEmbedder


def test_hashing_is_the_same_in_every_process():
    vector = HashingEmbedder(16).embed(["order"])[0]
    places = {int(place): round(float(vector[place]), 4) for place in np.nonzero(vector)[0]}
    assert places == {
        **{1: -0.343, 2: -0.1715, 3: -0.1715, 7: -0.5145, 8: -0.343},
        **{9: 0.1715, 11: -0.1715, 12: -0.5941, 15: -0.1715},
    }


def test_hashing_needs_some_room():
    with pytest.raises(ValueError, match="at least 16 dimensions, not 4"):
        HashingEmbedder(4)
