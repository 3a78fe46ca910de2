"""The files in which a run keeps what was answered."""

from __future__ import annotations

import glob
import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("grpo_host.runs")

FILE = "answers"
"""``answers.jsonl`` in a run's directory; rank 1 has ``answers-1.jsonl``; large ones are compressed."""


def recorded_files(run: Path) -> list[Path]:
    """What the run in the directory ``run``, or in the file of that name, has recorded, the oldest first."""
    if run.is_dir():
        return [*sorted(run.glob(f"{FILE}*.jsonl.gz")), *sorted(run.glob(f"{FILE}*.jsonl"))]
    return [*compressed_files(run), *([run] if run.is_file() else [])]


def compressed_files(file: Path) -> list[Path]:
    """The parts of ``file`` that were compressed, the oldest first."""
    return sorted(file.parent.glob(f"{glob.escape(file.stem)}.*.jsonl.gz"))


def ends_a_line(path: Path) -> bool:
    """Whether ``path`` can be appended to; a crash may have cut its last line short."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of ``path``; what a crash has damaged is named and left out."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                if "tools" not in line:
                    _ = line["episode"], line["who"], line["digest"], line["again"]
            except (ValueError, KeyError, TypeError):
                if text.strip():
                    logger.warning("%s:%d: a damaged line is left out", path, number)
                continue
            yield line
