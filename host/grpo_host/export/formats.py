"""Names of the formats in which conversations are exported; a module of its own keeps the CLI light."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["trajectory", "task", "demonstration", "feedback"]
FORMATS: tuple[Format, ...] = get_args(Format)
