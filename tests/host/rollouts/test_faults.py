"""The bench of faults in small: each fault that is made has exactly one record, and no episode is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.faults import PARTS, play


async def test_each_fault_is_recorded_once_and_no_episode_is_lost_doubled_or_cut(tmp_path: Path) -> None:
    played = await play(tmp_path, 100, 1.0, 100, looks=())

    assert {fault.split()[0] for _, fault in played.plan.happened} == set(PARTS)
    assert played.found.faults == played.plan.happened
    slow = ("no answer within", "no score within", "did not answer within")  # a machine that stood still
    assert [text for text in played.found.unexplained if not any(said in text for said in slow)] == []
    written = Counter(item.id for item in played.trajectories)
    assert len(written) == written.total() == 100
    assert played.resumed
    text = (tmp_path / "trajectories.jsonl").read_text()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 100
