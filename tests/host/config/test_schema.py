"""Every setting is read by something."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import grpo_host
from grpo_host.config import schema


def sections() -> Iterator[type[BaseModel]]:
    for value in vars(schema).values():
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == schema.__name__:
            yield value


def names_read() -> set[str]:
    """Attributes that the host reads anywhere."""
    read = set()
    for path in Path(grpo_host.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    return read


def test_every_setting_is_read_by_something() -> None:
    read = names_read()
    unread = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name in section.model_fields
        if name not in read
    ]
    assert unread == []
