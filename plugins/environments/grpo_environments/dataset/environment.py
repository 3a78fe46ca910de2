"""The dataset environment: each row is a task, and the agent's first answer ends the episode."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_environments.dataset.reading import (
    SPLITS,
    VALIDATION,
    Row,
    read_directory,
    read_file,
    read_hub,
)
from grpo_environments.splits import require_rate
from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation, StepResult
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, as_messages, assistant, system, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task

NAMES_OF_SPLITS = {
    TRAIN: (TRAIN,),
    VALIDATION: (VALIDATION, "valid", "dev"),
    HELD_OUT: (HELD_OUT, "test", "eval"),
}
"""How datasets call each of our splits."""

HUB_SECONDS = 600.0
"""What downloading a dataset of the hub may take, the first time."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where rows come from, and how they are split."""

    path: Path | None
    hub: str | None
    subset: str | None
    held_out_path: Path | None
    validation_path: Path | None
    split_column: str | None
    held_out_share: float
    changed: tuple[float, ...]
    """When the files were: one that is written anew is read anew."""

    def rows(self) -> dict[str, list[Row]]:
        """By split. Raises ``ConfigError``."""
        if self.hub is not None:
            return self._named(read_hub(self.hub, self.subset), self.hub)
        if self.path is None:
            raise ConfigError("dataset: give path, a file or directory, or hub, the name of a dataset there")
        if self.path.is_dir():
            return self._named(read_directory(self.path), str(self.path))
        rows = read_file(self.path)
        beside = {HELD_OUT: self.held_out_path, VALIDATION: self.validation_path}
        given = {split: read_file(path) for split, path in beside.items() if path is not None}
        if HELD_OUT in given:
            return {TRAIN: rows, **given}
        return {**self._divided(rows, str(self.path)), **given}

    def _named(self, found: Mapping[str, list[Row]], where: str) -> dict[str, list[Row]]:
        """The splits that a dataset has, under our names; one that it lacks is taken off its train split."""
        splits = {
            ours: next((found[name] for name in names if name in found), [])
            for ours, names in NAMES_OF_SPLITS.items()
        }
        train = splits[TRAIN] or next(iter(found.values()), [])
        if splits[HELD_OUT]:
            return {**splits, TRAIN: train}
        return {**splits, **self._divided(train, where)}

    def _divided(self, rows: list[Row], where: str) -> dict[str, list[Row]]:
        if self.split_column is None:
            return _by_share(rows, self.held_out_share)
        ours = {name: split for split, names in NAMES_OF_SPLITS.items() for name in names}
        splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for number, row in enumerate(rows, 1):
            said = _column(row, self.split_column, f"{where}: row {number}")
            if str(said) not in ours:
                raise ConfigError(
                    f"{where}: row {number}: its {self.split_column} is {said!r:.40}; "
                    f"splits are {', '.join(ours)}"
                )
            splits[ours[str(said)]].append(row)
        return splits


def _by_share(rows: list[Row], share: float) -> dict[str, list[Row]]:
    """A share of the rows, told by what they hold, is held out: more rows change nothing for most others."""
    ranked = sorted(range(len(rows)), key=lambda i: derive_seed("held_out", json.dumps(rows[i], default=str)))
    chosen = set(ranked[: round(share * len(rows))])
    return {
        TRAIN: [row for index, row in enumerate(rows) if index not in chosen],
        HELD_OUT: [row for index, row in enumerate(rows) if index in chosen],
    }


def _column(row: Row, name: str, where: str) -> Any:
    if name not in row:
        raise ConfigError(f'{where} has no column "{name}"; its columns are: {", ".join(map(str, row))}')
    return row[name]


@lru_cache(maxsize=8)
def _read(source: _Source) -> dict[str, list[Row]]:
    return source.rows()


class DatasetEnvironment(Environment):
    """Each row of a file or dataset is a task: the agent is asked once, and answers.

    It judges nothing: rewards do, which read the row's columns (``trajectory.task.data``, or a parameter of
    the column's name, see ``grpo_sdk.reward``).
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        hub: str | None = None,
        subset: str | None = None,
        prompt: str = "prompt",
        system: str = "",
        system_column: str | None = None,
        completion: str | None = None,
        id: str | None = None,
        held_out_path: Path | None = None,
        validation_path: Path | None = None,
        split_column: str | None = None,
        held_out_share: float = 0.1,
        limit: int | None = None,
    ) -> None:
        """Set the options.

        ``path``: a JSONL, JSON, CSV, TSV or Parquet file, or a directory that ``datasets`` wrote with
        ``save_to_disk``; or ``hub`` (with ``subset``): a dataset of the Hugging Face hub. ``prompt``: the
        column that is asked, a text or a list of messages; of a whole conversation, the last answer is left
        off. ``system``: a system message for all rows, or ``system_column``: a column that holds it.
        ``completion``: a column with good answers, which a warm start imitates; a whole conversation has its
        own. ``id``: a column that names the task; without it, its number does.

        What is held out: ``held_out_path`` (and ``validation_path``), another file; or the splits that the
        dataset has; or ``split_column``, which says train, validation or test; or else ``held_out_share``
        of the rows. ``limit``: the most rows a split.
        """
        require_rate("held_out_share", held_out_share)
        if path is not None and hub is not None:
            raise ValueError("path and hub: give one of the two")
        if path is not None and path in (held_out_path, validation_path):
            option = "held_out_path" if path == held_out_path else "validation_path"
            raise ValueError(
                f"{option} is path, what is trained on: it would measure what was learnt by heart. Give "
                f"another file; or leave it out, and held_out_share of the rows is held out"
            )
        if hub is not None:
            self.start_seconds = HUB_SECONDS
        self._columns = (prompt, system_column, completion, id)
        self._system = system
        self._limit = limit
        files = [file for file in (path, held_out_path, validation_path) if file is not None]
        self._source = _Source(
            path,
            hub,
            subset,
            held_out_path,
            validation_path,
            split_column,
            held_out_share,
            tuple(file.stat().st_mtime if file.exists() else 0.0 for file in files),
        )

    def tasks(self, split: str) -> Sequence[Task]:
        """Raises ``ConfigError`` if rows cannot be read, lack a column, or share an id."""
        if split not in SPLITS:
            raise ValueError(f'no split "{split}"; the splits are {", ".join(SPLITS)}')
        rows = _read(self._source).get(split, [])[: self._limit]
        if split == VALIDATION and not rows:
            raise ValueError("the dataset has no validation split")
        tasks = [self._task(row, number, split) for number, row in enumerate(rows)]
        repeated = [name for name, count in Counter(task.id for task in tasks).items() if count > 1]
        if repeated:
            raise ConfigError(
                f'two rows of {split} have the id "{repeated[0]}"; leave id out, or choose another column'
            )
        return tasks

    def _task(self, row: Row, number: int, split: str) -> Task:
        where = f"{self._source.path or self._source.hub}: row {number + 1} of {split}"
        prompt, system_column, completion, id = self._columns
        for name in (prompt, system_column, completion):
            if name is not None:
                _column(row, name, where)
        name = f"{split}-{number}" if id is None else str(_column(row, id, where))
        self._messages(row, where)
        return Task(name, dict(row), split)

    def _messages(self, row: Row, where: str) -> list[Message]:
        prompt, system_column, _, _ = self._columns
        said = row[prompt]
        if isinstance(said, str):
            messages = [user(said)]
        else:
            try:
                messages = as_messages(said)
            except (ValueError, TypeError) as problem:
                raise ConfigError(
                    f'{where}: "{prompt}" is neither a text nor messages: {problem}'
                ) from problem
        if not messages:
            raise ConfigError(f'{where}: "{prompt}" is an empty list')
        text = self._system if system_column is None else str(row[system_column])
        return [system(text), *messages] if text else messages

    async def reset(self, task: Task, *, seed: int) -> Observation:
        messages = self._messages(task.data, task.id)
        return Observation(messages[:-1] if messages[-1]["role"] == "assistant" else messages)

    async def step(self, action: Message) -> StepResult:
        return StepResult(done=True)

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        completion = self._columns[2]
        found = [(task, self._messages(task.data, task.id)) for task in self.tasks(split)]
        if completion is not None:
            return [[*messages, assistant(str(task.data[completion]))] for task, messages in found]
        return [messages for _, messages in found if messages[-1]["role"] == "assistant"]
