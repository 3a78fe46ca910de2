"""The text of agent.yaml as plain values, and the line on which each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_host.utils.validation import Location, say_location
from grpo_sdk.errors import ConfigError

MOST_SETTINGS = 100_000


def read_source(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The values of the file at ``path``, and the line of each, counted from 1.

    Raises ``ConfigError`` if it cannot be read or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Give the path of an agent.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    node = _parse(path, text)
    if node is None:
        raise ConfigError(f"{path}: the file is empty. Begin with name:, model: and environment:")
    lines: dict[Location, int] = {}
    values = _plain(path, node, (), lines)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: give a mapping of keys to values. Begin with name: my-agent")
    return values, lines


def _parse(path: Path, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        key = str(error.problem).split('"')[1]
        line = error.problem_mark.line + 1
        raise ConfigError(
            f'{path}:{line}: the key "{key}" stands here a second time. Remove one of them'
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = error.problem or error.context
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}.{_hint(text, mark)}") from None
    except YAMLError as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path}: not valid YAML: {first}") from None


def _hint(text: str, mark: Any) -> str:
    """What to do about the likeliest mistakes on the line of ``mark``."""
    lines = text.splitlines()
    at = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "${" in at:
        return ' Put quotes around what has ${…} in it, as in {name: "${MODEL}"}'
    if "\t" in at:
        return " Indent with spaces, not with tabs"
    return " Look there, and at the line before, for a missing quote, colon or bracket"


def _plain(path: Path, node: Any, location: Location, lines: dict[Location, int]) -> Any:
    """``node`` without ruamel's types; notes the line of every key and item below it."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if getattr(node, "tag", None) is not None and node.tag.value is not None:
        raise _not_a_setting(path, location, lines)
    if len(lines) > MOST_SETTINGS:  # aliases of aliases make as many as one likes of a few lines
        raise ConfigError(f"{path}: more than {MOST_SETTINGS:,} settings. Use fewer aliases (*name)")
    if isinstance(node, CommentedMap):
        result = {}
        marks = node.lc.data or {}  # keys that a merge (<<) brings have none
        for key, value in node.items():
            if not isinstance(key, str):
                line = marks[key][0] + 1 if key in marks else line_of(location, lines)
                raise ConfigError(
                    f"{path}:{line}: {say_location(location) or 'top level'}: "
                    f'the key {key} is no text. Write "{key}"'
                )
            if key in marks:
                lines[*location, key] = marks[key][0] + 1
            result[str(key)] = _plain(path, value, (*location, str(key)), lines)
        return result
    if isinstance(node, CommentedSeq):
        for index, item in enumerate(node.lc.data or {}):
            lines[*location, index] = node.lc.data[item][0] + 1
        return [_plain(path, item, (*location, index), lines) for index, item in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise _not_a_setting(path, location, lines)


def _not_a_setting(path: Path, location: Location, lines: Mapping[Location, int]) -> ConfigError:
    return ConfigError(
        f"{path}:{line_of(location, lines)}: {say_location(location)}: "
        f"give a text, a number, true, false, a list or a mapping; put quotes around a text"
    )


def line_of(location: Location, lines: Mapping[Location, int]) -> int:
    """The line of ``location``, or of the nearest level above it that has one."""
    while location:
        if location in lines:
            return lines[location]
        location = location[:-1]
    return 1
