"""The problems of an agent.yaml, each with its place, all reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_sdk.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    where: str
    """``agent.yaml:14: rewards[0].name`` or ``--set rewards[0].name``."""
    message: str
    """What is wrong, and the next step."""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class InvalidConfigError(ConfigError):
    """Everything that is wrong with a configuration, one problem a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)
