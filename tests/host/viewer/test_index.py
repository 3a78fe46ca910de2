"""The index of a run's trajectories: complete, kept up, and made anew where the files were rewritten."""

from __future__ import annotations

import gzip
import random
import sqlite3
import threading

import pytest
from filelock import FileLock

from grpo_host.runs import directory as run_directory
from grpo_host.viewer.index import NAME, VERSION, Index


def ids(index: Index) -> list[str]:
    with index.reading() as database:
        return [row["tid"] for row in database.execute("SELECT tid FROM trajectories ORDER BY id")]


def found(index: Index, word: str) -> int:
    with index.reading() as database:
        (count,) = database.execute("SELECT count(*) FROM words WHERE words MATCH ?", (word,)).fetchone()
    return int(count)


@pytest.fixture
def growing(make_run, episode, monkeypatch):
    """A run that compresses its trajectories every four."""
    monkeypatch.setattr(run_directory, "ROTATE_BYTES", 3 * len(episode("1", "t", 0).to_json()) + 100)
    return make_run()


def test_what_a_run_adds_is_added_to_the_index_also_across_compressed_files(growing, episode) -> None:
    index = Index(growing.path)
    for sample in range(11):
        growing.append_trajectory(episode("1", "t", sample, said=f"word{sample}"))
        if sample in (0, 2, 6):
            assert index.refresh()
    assert index.refresh()
    assert len(list(growing.path.glob("*.gz"))) == 2
    assert ids(index) == [f"1/t/{sample}" for sample in range(11)]
    with index.reading() as database:
        rows = database.execute("SELECT * FROM trajectories ORDER BY id").fetchall()
    assert [index.line(row) for row in rows] == [
        item.to_json() + b"\n" for item in growing.read_trajectories()
    ]
    assert [found(index, f"word{sample}") for sample in range(11)] == [1] * 11


def test_nothing_is_indexed_twice_while_a_full_file_is_there_compressed_and_not_yet_emptied(
    growing, episode
) -> None:
    for sample in range(3):
        growing.append_trajectory(episode("1", "t", sample))
    for seen_before in (False, True):
        index = Index(growing.path)
        index._remove()
        if seen_before:
            (growing.path / "trajectories.0001.jsonl.gz").unlink()
            index.refresh()
        copy = growing.path / "trajectories.0001.jsonl.gz"
        copy.write_bytes(gzip.compress(growing.trajectories.read_bytes()))
        index.refresh()
        assert ids(index) == ["1/t/0", "1/t/1", "1/t/2"]
        content = growing.trajectories.read_bytes()
        growing.trajectories.write_bytes(b"")
        growing.append_trajectory(episode("1", "t", 3))
        index.refresh()
        assert ids(index) == ["1/t/0", "1/t/1", "1/t/2", "1/t/3"]
        growing.trajectories.write_bytes(content)


def test_a_run_that_goes_on_from_a_checkpoint_is_indexed_anew(run, episode) -> None:
    index = Index(run.path)
    index.refresh()
    run.forget_after(1)
    run.append_trajectory(episode("2", "other", 0))
    index.refresh()
    assert ids(index) == ["1/t-1/0", "1/t-1/1", "2/other/0"]
    assert found(index, "know") == 0


def test_a_line_that_is_half_there_is_indexed_once_it_is_whole(run, episode) -> None:
    line = episode("3", "t", 0).to_json() + b"\n"
    index = Index(run.path)
    with run.trajectories.open("ab") as file:
        file.write(line[:50])
        file.flush()
        index.refresh()
        before = ids(index)
        file.write(line[50:])
    index.refresh()
    assert ids(index) == [*before, "3/t/0"]


def test_damaged_lines_are_left_out(run, episode) -> None:
    with run.trajectories.open("ab") as file:
        file.write(b"\0\0\0\n{}\n[]\n" + episode("3", "t", 0).to_json() + b"\n")
    index = Index(run.path)
    index.refresh()
    assert ids(index)[-2:] == ["after/h-1", "3/t/0"]
    assert index.progress().ready


def test_a_damaged_compressed_file_gives_what_can_be_read(run, episode) -> None:
    lines = b"".join(
        episode("1", f"t-{n}", 0, said=random.randbytes(99).hex()).to_json() + b"\n" for n in range(2000)
    )
    packed = bytearray(gzip.compress(lines))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    (run.path / "trajectories.0001.jsonl.gz").write_bytes(packed)
    index = Index(run.path)
    index.refresh()
    found_ids = ids(index)
    assert 0 < found_ids.index("before/h-1") < 2000
    assert found_ids[-1] == "after/h-1"


def test_a_task_with_a_ledger_of_its_own_is_indexed_whole(run, episode) -> None:
    item = episode("3", "t", 0)
    item.task.data["ledger"] = {"sequences": [{"outcome": 1}]}
    item.task.data["outcome"] = ',"ledger":{"sequences":['
    run.append_trajectory(item)
    index = Index(run.path)
    index.refresh()
    assert ids(index)[-1] == "3/t/0"


def test_an_index_of_another_version_or_a_damaged_one_is_made_anew(run) -> None:
    index = Index(run.path)
    index.refresh()
    expected = ids(index)
    with sqlite3.connect(index.path) as database:
        database.execute("DELETE FROM trajectories")
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    again = Index(run.path)
    assert again.refresh()
    assert ids(again) == expected
    index.path.write_bytes(b"no database" * 1000)
    assert Index(run.path).refresh()
    assert ids(again) == expected


def test_a_run_that_cannot_be_written_is_indexed_in_the_cache(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("grpo_host.viewer.index.os.access", lambda *_: False)  # tests may run as root
    index = Index(run.path, tmp_path / "cache")
    index.refresh()
    assert index.path.parent == tmp_path / "cache"
    assert len(ids(index)) == 6
    assert not (run.path / NAME).exists()


def test_one_process_indexes_and_another_reads_how_far_it_is(run) -> None:
    first = Index(run.path)
    with FileLock(first.path.with_suffix(".lock")):
        assert not Index(run.path).refresh()
        progress = Index(run.path).progress()
        assert (progress.ready, progress.share, progress.seconds_left) == (False, 0.0, None)
    first.refresh()
    assert Index(run.path).progress().as_dict() == {"state": "ready", "share": 1.0, "seconds_left": 0.0}


def test_what_a_growing_run_has_just_added_does_not_make_its_index_one_that_is_being_made(
    run, episode
) -> None:
    index = Index(run.path)
    index.refresh()
    run.append_trajectory(episode("3", "t", 0))
    progress = index.progress()
    assert progress.share < 1
    assert progress.as_dict()["state"] == "ready"
    assert Index(run.path).progress().as_dict()["state"] == "indexing", "nobody keeps it up"


def test_indexing_that_is_stopped_goes_on_later(run, episode, monkeypatch) -> None:
    monkeypatch.setattr("grpo_host.viewer.index.BATCH", 2)
    stop = threading.Event()
    stop.set()
    index = Index(run.path)
    assert not index.refresh(stop)
    assert index.progress().share < 1
    assert index.refresh()
    assert len(ids(index)) == 6
