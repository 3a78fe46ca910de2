"""The cache on disk: between processes, and whatever happens to its file."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.cache import DiskCache
from grpo_sdk.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "c.sqlite"


def test_the_next_start_finds_what_the_last_one_set(path: Path) -> None:
    first = DiskCache(path)
    first.set("k", {"verdict": [1, 2]})
    first.close()

    assert DiskCache(path).get("k") == {"verdict": [1, 2]}


WORK = """
import sys
from grpo_host.cache import DiskCache
cache = DiskCache(sys.argv[1], max_entries=50)
for number in range(200):
    cache.set(f"{sys.argv[2]}-{number % 40}", [sys.argv[2], number])
    cache.get(f"{number % 4}-{number % 40}")
assert cache.statistics().errors == 0, cache.statistics()
"""


@pytest.mark.slow
def test_processes_share_a_file_without_errors_and_within_its_bounds(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(path), str(name)], stderr=subprocess.PIPE, text=True
        )
        for name in range(4)
    ]
    failures = [process.communicate(timeout=120)[1] for process in processes]

    assert failures == [""] * 4
    with sqlite3.connect(path) as connection:
        counted = connection.execute("SELECT count(*), sum(size) FROM entry").fetchone()
        assert connection.execute("SELECT entries, bytes FROM total").fetchone() == counted
        assert counted[0] <= 50
    connection.close()


def test_a_forked_process_has_a_connection_of_its_own(path: Path) -> None:
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from grpo_host.cache import DiskCache
cache = DiskCache(sys.argv[1])
cache.set("parent", 1)
if (child := os.fork()) == 0:
    cache.set("child", cache.get("parent") + 1)
    os._exit(cache.statistics().errors)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(cache.get("child"), cache.get("parent"))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("2 1\n", "")


def damage(path: Path) -> None:
    """Write noise over all pages but the header."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))


def test_a_file_damaged_before_the_start_is_set_aside_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = DiskCache(path)
    first.set("k", 1)
    first.close()
    damage(path)

    cache = DiskCache(path)
    cache.set("new", 2)

    assert (cache.get("k"), cache.get("new")) == (None, 2)
    assert path.with_name("c.sqlite.damaged").exists()
    assert "is damaged" in caplog.text
    assert "beginning anew" in caplog.text


def test_a_file_damaged_while_in_use_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = _filled(path)
    damage(path)

    first = cache.get("k0")
    cache.set("k", "after")

    assert (first, cache.get("k"), DiskCache(path).get("k")) == (None, "after", "after")
    assert caplog.text.count("beginning anew") == 1
    assert cache.statistics().errors == 1


def test_two_users_of_a_damaged_file_set_it_aside_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = _filled(path), _filled(path)
    damage(path)

    one.get("k0")
    one.set("k", "after")
    two.get("k0")

    assert two.get("k") == "after"
    assert caplog.text.count("beginning anew") == 1


def test_a_value_with_a_changed_byte_is_not_given_back(path: Path) -> None:
    cache = DiskCache(path)
    cache.set("k", "reward 0.25")
    cache._connected().execute("UPDATE entry SET value = CAST(replace(value, '0.25', '0.95') AS BLOB)")

    assert cache.get("k") is None


def _filled(path: Path) -> DiskCache:
    """A cache that holds no page of its file in memory, so that damage to the file is seen."""
    cache = DiskCache(path)
    for number in range(100):
        cache.set(f"k{number}", "x" * 500)
    for pragma in ("wal_checkpoint(TRUNCATE)", "cache_size = 1", "shrink_memory"):
        cache._connected().execute(f"PRAGMA {pragma}")
    return cache


def test_a_file_that_is_no_cache_is_left_alone_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes " * 100)

    with pytest.raises(ConfigError, match=r"notes\.txt: this file is not a cache"):
        DiskCache(path)
    assert path.read_text() == "my notes " * 100


def test_another_programs_database_is_left_alone_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()

    with pytest.raises(ConfigError, match="another program's database"):
        DiskCache(path)


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="Choose a path that can be written"):
        DiskCache(tmp_path / "file" / "c.sqlite")


def test_a_locked_file_is_a_miss_and_a_warning_not_an_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(path)
    cache._connected().execute("PRAGMA busy_timeout = 10")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        cache.set("k", 1)
    holder.execute("ROLLBACK")
    holder.close()

    assert cache.get("k") is None
    assert cache.statistics().errors == 1
    assert "database is locked; going on without it" in caplog.text
    cache.set("k", 2)
    assert cache.get("k") == 2


def test_a_full_disk_is_a_warning_and_reading_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = DiskCache(path)
    cache.set("before", 1)
    connection = cache._connected()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite reports it as it does a full disk

    cache.set("large", "x" * 100_000)

    assert (cache.get("before"), cache.get("large")) == (1, None)
    assert "full" in caplog.text
