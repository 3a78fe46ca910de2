"""The garbage collector while episodes are played or requests answered."""

import gc

from grpo_host.rollouts.gc_pause import short_collections


def test_it_looks_less_often_and_at_less_meanwhile():
    before = gc.get_threshold()

    with short_collections():
        assert gc.get_threshold()[0] > before[0]

    assert gc.get_threshold() == before


def test_of_several_that_overlap_the_last_to_leave_sets_it_back():
    before = gc.get_threshold()
    first, second = short_collections(), short_collections()

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != before
    second.__exit__(None, None, None)

    assert gc.get_threshold() == before


class Knot:
    """Held by itself alone, as an exception may be that is kept where it was raised."""

    there = 0

    def __init__(self):
        self.itself = self
        Knot.there += 1

    def __del__(self):
        Knot.there -= 1


def test_what_many_short_batches_leave_is_freed():
    for _ in range(100):
        with short_collections():
            for _ in range(500):
                Knot()

    assert Knot.there < 25_000
    gc.collect()
