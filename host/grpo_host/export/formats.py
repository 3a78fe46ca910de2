"""As what served conversations can be exported: names alone, so that the command line can offer them."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["trajectory", "task", "demonstration", "feedback"]
FORMATS: tuple[Format, ...] = get_args(Format)
