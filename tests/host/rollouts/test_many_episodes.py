"""The bench of many episodes at once, in small."""

from __future__ import annotations

from bench.episodes import play


async def test_all_episodes_are_under_way_at_once_and_the_loops_lag_is_told() -> None:
    found = await play(64, 0.2)
    assert found["most"] == 64
    assert found["lag"] > 0
