"""Which split a generated thing belongs to, and checks that all environments here share."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


def is_held_out(split: str) -> bool:
    """Whether ``split`` is the held-out one. Raises ``ValueError`` if there is no such split."""
    if split not in (TRAIN, HELD_OUT):
        raise ValueError(f'no split "{split}"; the splits are {TRAIN} and {HELD_OUT}')
    return split == HELD_OUT


def belongs(held_out: bool, *parts: int | str) -> bool:
    """Whether what ``parts`` describe is of the held-out split (a fifth of everything) or of train."""
    return (derive_seed("split", *parts) % 5 == 0) == held_out


@dataclass(frozen=True, slots=True)
class SeededTasks:
    """Tasks that are seeds of a game's reset, in ``data["seed"]``. Raises ``ValueError`` for other counts."""

    environment: str
    task_seed: int
    train: int
    held_out: int

    def __post_init__(self) -> None:
        require_between("train_tasks", self.train, 1, 1_000_000)
        require_between("held_out_tasks", self.held_out, 0, 100_000)

    def of(self, split: str) -> list[Task]:
        """Those of ``split``: the same for the same ``task_seed``."""
        count = self.held_out if is_held_out(split) else self.train
        seeds = [
            derive_seed(self.environment, self.task_seed, split, index) % 2**31 for index in range(count)
        ]
        return [Task(f"{split}-{index:04d}", {"seed": seed}, split) for index, seed in enumerate(seeds)]


def require_rate(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is from 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; it is a share, from 0 to 1")


def require_between(name: str, value: int, lowest: int, highest: int) -> None:
    """Raise ``ValueError`` unless ``value`` is from ``lowest`` to ``highest``."""
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must be from {lowest} to {highest}")
