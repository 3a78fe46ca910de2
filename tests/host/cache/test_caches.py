"""What every cache does, whether it is in memory, on disk, or both."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_host.cache import DiskCache, MemoryCache, TieredCache


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., Any]


@pytest.fixture(params=["memory", "disk", "tiered"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Make:
    def made(**options: Any) -> Any:
        memory = MemoryCache(clock=clock, **options)
        if request.param == "memory":
            return memory
        disk = DiskCache(tmp_path / "cache.sqlite", clock=clock, **options)
        return disk if request.param == "disk" else TieredCache(memory, disk)

    return made


@pytest.fixture(params=["memory", "disk"])
def make_one(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Make:
    def made(**options: Any) -> Any:
        if request.param == "memory":
            return MemoryCache(clock=clock, **options)
        return DiskCache(tmp_path / "cache.sqlite", clock=clock, **options)

    return made


def test_what_was_not_set_is_none(make: Make) -> None:
    assert make().get("k") is None


json_values = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner | st.none()) | st.dictionaries(st.text(), inner | st.none()),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(value=json_values)
def test_what_comes_back_is_what_was_set(make: Make, value: Any) -> None:
    cache = make()

    cache.set("k", value)

    assert cache.get("k") == value
    cache.close()


def test_what_came_back_can_be_changed_without_changing_the_cache(make: Make) -> None:
    cache = make()
    cache.set("k", {"a": [1]})
    cache.get("k")["a"].append(2)

    assert cache.get("k") == {"a": [1]}


def test_the_last_value_set_counts(make: Make) -> None:
    cache = make()
    cache.set("k", 1)
    cache.set("k", 2)

    assert cache.get("k") == 2


@pytest.mark.parametrize("value", [None, math.nan, {"x": math.inf}, (1, 2), {1: "a"}, object(), "\ud800"])
def test_a_value_that_would_come_back_as_another_is_refused(make: Make, value: Any) -> None:
    with pytest.raises(TypeError, match=r'"judge" cannot be cached: .*Cache what JSON can say'):
        make().set("judge", value)


def test_an_entry_ends_with_its_time(make: Make, clock: Clock) -> None:
    cache = make(ttl=10)
    cache.set("k", 1)
    clock.now += 9.9
    before = cache.get("k")
    clock.now += 0.2

    assert (before, cache.get("k")) == (1, None)


def test_an_entry_can_have_a_time_of_its_own(make: Make, clock: Clock) -> None:
    cache = make(ttl=10)
    cache.set("short", 1, ttl=1)
    cache.set("long", 1, ttl=100)
    clock.now += 50

    assert (cache.get("short"), cache.get("long")) == (None, 1)


def test_a_cache_without_a_time_keeps_for_good(make: Make, clock: Clock) -> None:
    cache = make(ttl=None)
    cache.set("k", 1)
    clock.now += 1e9

    assert cache.get("k") == 1


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
def test_a_time_that_is_none_is_refused(make: Make, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl is a number of seconds above 0, or None"):
        make().set("k", 1, ttl=ttl)


@pytest.mark.parametrize("option", ["max_entries", "max_bytes"])
def test_a_cache_without_room_is_refused(make: Make, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 1 or more, not 0"):
        make(**{option: 0})


def test_the_least_recently_used_goes_first(make_one: Make, clock: Clock) -> None:
    cache = make_one(max_entries=3)
    for key in "abc":
        cache.set(key, key)
    clock.now += 100
    cache.get("a")
    cache.set("d", "d")

    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert cache.statistics().evictions == 1


def test_what_has_expired_goes_before_what_is_used(make_one: Make, clock: Clock) -> None:
    cache = make_one(max_entries=3)
    cache.set("a", 1)
    cache.set("b", 1)
    cache.set("gone", 1, ttl=1)
    clock.now += 2
    cache.set("c", 1)

    assert [key for key in ("a", "b", "c") if cache.get(key)] == ["a", "b", "c"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(operations=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 900)), max_size=60))
def test_neither_entries_nor_bytes_grow_beyond_their_bounds(
    make_one: Make, operations: list[tuple[int, int]]
) -> None:
    cache = make_one(max_entries=8, max_bytes=4000)
    for key, length in operations:
        cache.set(str(key), "x" * length)

        held = cache.statistics()
        assert held.entries <= 8
        assert held.bytes <= 4000
    cache.close()


def test_a_value_larger_than_the_cache_is_not_kept_and_takes_the_old_one_with_it(make_one: Make) -> None:
    cache = make_one(max_bytes=1000)
    cache.set("k", "old")
    cache.set("k", "x" * 2000)

    assert cache.get("k") is None
    assert cache.statistics().refused == 1


def test_the_statistics_tell_hits_misses_and_what_is_held(make: Make) -> None:
    cache = make()
    cache.get("k")
    cache.set("k", "value")
    cache.get("k")
    cache.get("k")

    told = cache.statistics().as_dict()
    assert (told["hits"], told["misses"], told["sets"], told["entries"]) == (2, 1, 1, 1)
    assert told["hit_rate"] == pytest.approx(2 / 3)
    assert told["bytes"] >= len('"value"')


def test_deleting_and_clearing_forget(make: Make) -> None:
    cache = make()
    for key in "abc":
        cache.set(key, key)
    cache.delete("a")
    cache.delete("never set")
    after_delete = [key for key in "abc" if cache.get(key)]
    cache.clear()

    assert (after_delete, [key for key in "abc" if cache.get(key)]) == (["b", "c"], [])


def test_threads_can_share_a_cache(make: Make) -> None:
    cache, wrong = make(), []

    def work(name: int) -> None:
        for number in range(100):
            cache.set(f"{name}-{number % 7}", [name, number])
            if (got := cache.get(f"{name}-{number % 7}")) != [name, number]:
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (wrong, cache.statistics().errors) == ([], 0)


def test_what_is_found_on_disk_is_kept_in_memory(tmp_path: Path, clock: Clock) -> None:
    DiskCache(tmp_path / "c", clock=clock).set("k", "v")
    memory = MemoryCache(clock=clock)
    tiered = TieredCache(memory, DiskCache(tmp_path / "c", clock=clock))

    assert (tiered.get("k"), memory.get("k")) == ("v", "v")


def test_memory_does_not_keep_an_entry_of_the_disk_beyond_its_time(tmp_path: Path, clock: Clock) -> None:
    tiered = TieredCache(MemoryCache(clock=clock, ttl=1000), DiskCache(tmp_path / "c", clock=clock, ttl=None))
    tiered.disk.set("k", "v", ttl=10)
    tiered.get("k")
    clock.now += 11

    assert tiered.get("k") is None
