"""The garbage collector while episodes are played or requests answered."""

import gc

from grpo_host.rollouts.gc_pause import short_collections


def test_it_looks_less_often_and_at_less_meanwhile():
    before = gc.get_threshold()

    with short_collections():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > 0

    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_of_several_that_overlap_the_last_to_leave_sets_it_back():
    before = gc.get_threshold()
    first, second = short_collections(), short_collections()

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != before
    second.__exit__(None, None, None)

    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
