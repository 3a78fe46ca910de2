"""Writes what an author begins with: a plugin package with any mix of kinds, or an agent of single files."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from packaging.utils import InvalidName, canonicalize_name

from grpo_host.plugins.record import KINDS as ALL_KINDS
from grpo_host.plugins.record import Kind
from grpo_host.scaffold.writing import templates, write_texts
from grpo_sdk.errors import ConfigError, did_you_mean

LONGEST_NAME = 64
"""As long as the name in agent.yaml may be, which is the plugin's too."""

KINDS = tuple(kind for kind in ALL_KINDS if kind != "curriculum")
"""Those that there are templates of."""

RENAMED = {"gitignore": ".gitignore", "ci.yaml": ".github/workflows/tests.yaml"}
"""Names of templates whose own names would have an effect in this repository."""

_CONDITION = re.compile(r"\s*(?:#|<!--) (?:if (?P<unless>not )?(?P<kinds>\w+(?: or \w+)*)|end)(?: -->)?\s*")
"""A line of a template: what follows, up to the line ``end``, is only for plugins with such a kind."""


def write_plugin(directory: Path, kinds: Collection[Kind], *, force: bool = False) -> list[Path]:
    """Write and return the files of a package that is called as ``directory`` and offers one thing a kind.

    Raises ``ConfigError`` if it cannot be called so, ``RunError`` before writing if a file exists, unless
    ``force``.
    """
    name, module = plugin_names(directory)
    texts = {}
    for path, template in templates("plugin"):
        kind = path.rpartition("/")[2].removesuffix(".py").removeprefix("test_")
        if kind in KINDS and kind not in kinds:
            continue
        text = "".join(_for_kinds(template, kinds)).rstrip() + "\n" if template else ""
        place = RENAMED.get(path, path).replace("acme_plugin", module)
        texts[place] = text.replace("acme_plugin", module).replace("acme-plugin", name)
    return write_texts(directory, texts, force=force)


def write_agent(directory: Path, *, force: bool = False) -> list[Path]:
    """Write and return the files of an agent that is called as ``directory``. Raises as ``write_plugin``."""
    name = _name(directory, "an agent")
    texts = {
        RENAMED.get(path, path): template.replace("my-agent", name) for path, template in templates("agent")
    }
    return write_texts(directory, texts, force=force)


def plugin_names(directory: Path) -> tuple[str, str]:
    """The names of the distribution and of its package. Raises ``ConfigError`` if one cannot be used."""
    name = _name(directory, "a plugin")
    module = name.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise ConfigError(
            f'"{name}" cannot be a plugin\'s name: its package would be "{module}", which '
            "Python cannot import. Begin with a letter, and use no word of Python's"
        )
    found = importlib.util.find_spec(module)
    places = [found.origin, *(found.submodule_search_locations or ())] if found else []
    inside = [place for place in places if place and Path(place).is_relative_to(directory.resolve())]
    if module in sys.stdlib_module_names or (found and not inside):
        where = f" ({found.origin})" if found and found.origin else ""
        raise ConfigError(
            f'"{name}" cannot be a plugin\'s name: there is a package "{module}" already{where}. '
            "Choose another name"
        )
    return name, module


def parse_kinds(text: str) -> Sequence[Kind]:
    """Kinds, separated by commas, in the order of ``KINDS``. Raises ``ConfigError`` for any other."""
    asked = [word.strip() for word in text.split(",")]
    for word in asked:
        if word not in KINDS:
            raise ConfigError(
                f'there is no kind "{word}".{did_you_mean(word, list(KINDS))} '
                f"A plugin's kinds are: {', '.join(KINDS)}"
            )
    return [kind for kind in KINDS if kind in asked]


def _name(directory: Path, what: str) -> str:
    """The last part of ``directory`` as package indexes write names, which agent.yaml takes too."""
    text = directory.resolve().name
    try:
        name = str(canonicalize_name(text, validate=True))
    except InvalidName:
        raise ConfigError(
            f'"{text}" cannot be the name of {what}: use letters, digits and dashes, '
            "and begin and end with a letter or a digit"
        ) from None
    if len(name) > LONGEST_NAME:
        raise ConfigError(f'"{name}" has {len(name)} characters; a name has at most {LONGEST_NAME}')
    return name


def _for_kinds(template: str, kinds: Collection[str]) -> Iterator[str]:
    """The lines of ``template`` that are for a plugin with ``kinds``."""
    shown = [True]
    for line in template.splitlines(keepends=True):
        condition = _CONDITION.fullmatch(line)
        if condition is None:
            if all(shown):
                yield line
        elif condition["kinds"] is None:
            shown.pop()
        else:
            asked = condition["kinds"].split(" or ")
            shown.append(any(kind in kinds for kind in asked) != bool(condition["unless"]))
