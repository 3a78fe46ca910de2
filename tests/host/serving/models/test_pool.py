"""The pool of served models: when a model that cannot be loaded is tried again."""

from __future__ import annotations

import random
from itertools import islice

from grpo_host.serving.models.pool import warm_pauses


def test_pauses_before_a_model_is_loaded_again_grow_to_a_minute():
    for pause, longest in zip(warm_pauses(), (5, 10, 20, 40, 60, 60), strict=False):
        assert longest / 2 <= pause <= longest


def test_replicas_that_are_seeded_alike_do_not_load_again_together():
    drawn = []
    for _ in range(2):
        random.seed(0)
        drawn.append(list(islice(warm_pauses(), 6)))
    assert drawn[0] != drawn[1]
