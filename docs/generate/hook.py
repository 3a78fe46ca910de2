"""Fills the pages of docs/reference/ from the code, each time the site is built (mkdocs.yml, ``hooks``).

A page says which text it wants where, ``<!-- generated: cli -->``. Nothing generated is committed, so
nothing can be out of date. The pages of Python names hold mkdocstrings' ``:::``, which comes after this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import agent_yaml
import cli
import http_api
import plugins
import python_api

TEXTS: dict[str, Callable[[], str]] = {
    "sdk": python_api.sdk,
    "testing": python_api.testing,
    "cli": cli.commands,
    "agent-yaml": agent_yaml.keys,
    "plugins": plugins.built_in,
    "http": http_api.endpoints,
}
_WANTED = re.compile(r"<!-- generated: ([\w-]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated texts; a text that there is not is a ``KeyError``, which ends the build."""
    return _WANTED.sub(lambda wanted: TEXTS[wanted[1]](), markdown)
