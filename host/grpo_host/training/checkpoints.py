"""A run's checkpoints: complete, whole still when they are needed, and the last of them."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo_host.runs.directory import remedy
from grpo_host.training.finite import MEND, nonfinite_weights
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.utils.atomic import sync_directory, write_text
from grpo_sdk.errors import RunError

COMPLETE = "grpo_state.json"
"""Written last into a checkpoint: without it the checkpoint is half and is not resumed from."""

FILES = "files"
"""In it: the size and the checksum of every other file, so that one that is damaged later is found."""

KEPT_CHECKPOINTS = 2

DAMAGED = "damaged-"
"""Prefix of a checkpoint that is no longer complete: it is kept, and not resumed from."""


def checkpoint_path(checkpoints: Path, step: int) -> Path:
    """Where the trainer saves after ``step``."""
    return checkpoints / f"checkpoint-{step}"


def complete_checkpoint(
    checkpoints: Path, step: int, state: Mapping[str, Any], ranks: Ranks | None = None
) -> None:
    """Mark the checkpoint of ``step`` as complete, and only then remove older ones. Raises ``RunError``.

    Each of several ranks calls it when it has written its random state; rank 0 does it.
    """
    ranks = ranks or Ranks()
    ranks.broadcast(None)
    if not ranks.main:
        return
    try:
        mark_complete(checkpoint_path(checkpoints, step), state)
    except OSError as problem:
        raise checkpoint_error(problem, checkpoints) from problem
    for path in _by_step(checkpoints)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(path, ignore_errors=True)


def mark_complete(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Declare ``checkpoint`` whole, with our own state in it, once all of it is on the disk.

    Raises ``RunError`` if the weights in it are not finite.
    """
    if found := nonfinite_weights(checkpoint):
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise RunError(f"the weights of {checkpoint} are not finite (in {found}); it was deleted. {MEND}")
    sync_directory(checkpoint)
    files = {
        str(path.relative_to(checkpoint)): [path.stat().st_size, _checksum(path)]
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    write_text(checkpoint / COMPLETE, json.dumps({**state, FILES: files}))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What ``mark_complete`` put into ``checkpoint``."""
    state: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return state


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """The whole checkpoint of the last step."""
    return next((path for path in reversed(_by_step(checkpoints)) if damage(path) is None), None)


def whole_checkpoint(checkpoints: Path, say: Callable[[str], None]) -> Path | None:
    """The last checkpoint, to go on from; None if the run has not come to its first.

    Half ones are deleted. Damaged ones are set aside, which is said, and an older one is taken. Raises
    ``RunError`` if there is none: to begin anew would delete all that the run has done.
    """
    remove_incomplete(checkpoints)
    damaged: dict[Path, str] = {}
    found = None
    for path in reversed(_by_step(checkpoints)):
        what = damage(path)
        if what is None:
            found = path
            break
        damaged[path] = what
    if damaged and found is None:
        path, what = next(iter(damaged.items()))
        raise RunError(
            f"{path} is damaged: {what}, and there is no older checkpoint to go on from. Put the file back "
            "from a copy, or begin a new run without --resume"
        )
    for path, what in damaged.items():
        aside = path.with_name(DAMAGED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.replace(aside)
        say(f"warning: {path} is damaged: {what}. It is kept as {aside.name}; the run goes on from {found}")
    return found


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of ``checkpoint``; None if it is complete and whole."""
    try:
        files = read_state(checkpoint).get(FILES, {})
    except FileNotFoundError:
        return f"it has no {COMPLETE}"
    except (OSError, ValueError, AttributeError) as problem:
        return f"its {COMPLETE} cannot be read ({problem})"
    for name, (size, checksum) in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"its {name} is missing"
        if path.stat().st_size != size:
            return f"its {name} has {path.stat().st_size:,} of {size:,} bytes"
        if _checksum(path) != checksum:
            return f"its {name} is not what was written"
    found = nonfinite_weights(checkpoint)
    return None if found is None else f"its weights are not finite (in {found})"


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _by_step(checkpoints: Path) -> list[Path]:
    """All checkpoints; not by their files' times, since clocks go back."""
    named = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in checkpoints.glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in named.items() if match}
    return sorted(steps, key=steps.__getitem__)


def remove_incomplete(checkpoints: Path) -> None:
    """Delete checkpoints that a crash or a full disk left half: ``COMPLETE`` is written last."""
    for path in _by_step(checkpoints):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_error(problem: Exception, checkpoints: Path) -> RunError:
    """What to tell a user whose checkpoint could not be written; the half of it is removed."""
    what = remedy(problem, checkpoints)
    remove_incomplete(checkpoints)
    kept = latest_checkpoint(checkpoints)
    last = f"the last complete checkpoint is {kept}" if kept else "there was no checkpoint before"
    return RunError(
        f"cannot save a checkpoint in {checkpoints}: {problem}; {last}. {what} and run again with --resume"
    )
