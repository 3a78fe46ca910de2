"""Where a run keeps what its tools, judges and hosted models answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.assembly.answers import answer_with, answers_of
from grpo_host.recorded.answers import Recording, Replay
from grpo_host.recorded.files import FILE, compressed_files, recorded_files
from grpo_host.runs.directory import EVALUATIONS, RunDirectory
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.config.schema import AgentConfig


def record_in(resolved: ResolvedConfig, directory: Path, *, record: bool, rank: int = 0) -> None:
    """Append what is answered to the run in ``directory``, if ``record`` says so or it was begun so.

    Raises as ``answer_with`` does, and ``ConfigError`` in a replay.
    """
    _record(
        resolved,
        directory / (f"{FILE}-{rank}.jsonl" if rank else f"{FILE}.jsonl"),
        record or bool(recorded_files(directory)),
    )


def record_beside(resolved: ResolvedConfig, out: Path, *, record: bool) -> None:
    """Keep what is answered beside the trajectories in ``out``, if ``record`` says so.

    Raises as ``record_in`` does.
    """
    _record(resolved, beside(out), record)


def _record(resolved: ResolvedConfig, file: Path, record: bool) -> None:
    if not record:
        return
    if answers_of(resolved) is not None:
        raise ConfigError("--record and --replay: a replay asks nobody, so there is nothing to record")
    answer_with(resolved, Recording(file))


def beside(out: Path) -> Path:
    """Where the answers of the trajectories in the file ``out`` are kept."""
    return out.with_name(f"{out.stem}.{FILE}.jsonl")


def replay_of(config: AgentConfig, which: str, purpose: str) -> Replay:
    """What the run, the evaluation or the file ``which`` has recorded. Raises ``RunError``."""
    path = expanded(which)
    if path.is_file() or compressed_files(path):
        return Replay(beside(path) if recorded_files(beside(path)) else path)
    output = Path(config.output)
    if purpose == "eval":
        return Replay(RunDirectory.find(output / config.name, EVALUATIONS, which).path)
    return Replay(RunDirectory.find(output, config.name, which).path)
