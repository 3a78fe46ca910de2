"""``${NAME}`` and ``${NAME:-default}`` in the texts of agent.yaml: environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from grpo_host.utils.validation import Complaint, Location

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


def resolve_references(
    values: Any,
) -> tuple[Any, dict[Location, str], list[Complaint]]:
    """Fill the variables into ``values``; return the values, the texts that had references, and complaints.

    ``$${`` stands for ``${`` itself. An empty variable counts as unset if there is a default.
    """
    references: dict[Location, str] = {}
    complaints: list[Complaint] = []

    def replace(text: str, location: Location) -> str:
        def fill(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if match[0] == "$${":
                return "${"
            references[location] = text
            if name is None:
                complaints.append(Complaint(location, "write ${NAME}, or $${ for the characters ${"))
                return ""
            value = os.environ.get(name)
            if value or (value is not None and default is None):
                return value
            if default is None:
                complaints.append(
                    Complaint(
                        location,
                        f"the environment variable {name} is not set. "
                        f"Set it, or give a default: ${{{name}:-default}}",
                    )
                )
            return default or ""

        return _REFERENCE.sub(fill, text)

    return map_texts(values, replace), references, complaints


def escape_references(values: Any) -> Any:
    """Escape every ``${`` in ``values``, so that it is read back literally."""
    return map_texts(values, lambda text, _: text.replace("${", "$${"))


def map_texts(values: Any, change: Callable[[str, Location], str], at: Location = ()) -> Any:
    """A copy of ``values`` with every text changed."""
    if isinstance(values, str):
        return change(values, at)
    if isinstance(values, dict):
        return {key: map_texts(value, change, (*at, key)) for key, value in values.items()}
    if isinstance(values, list):
        return [map_texts(value, change, (*at, index)) for index, value in enumerate(values)]
    return values
