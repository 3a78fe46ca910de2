"""Reads the templates of a scaffold, and writes what is made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from grpo_sdk.errors import RunError


def templates(scaffold: str) -> Iterator[tuple[str, str]]:
    """Each file of ``scaffold``: its path within, and its text."""
    for name, file in _files(files("grpo_templates") / scaffold):
        yield name, file.read_text("utf-8")


def write_texts(
    directory: Path, texts: Mapping[str, str], *, force: bool = False, private: Collection[str] = ()
) -> list[Path]:
    """Write ``texts``, by their paths within ``directory``, and return the paths of the files.

    Raises ``RunError`` before writing if one exists, unless ``force``. What is ``private`` only its owner
    may read, and it is never overwritten.
    """
    there = [name for name in texts if (directory / name).exists()]
    if there and not force:
        raise RunError(
            f"{directory} has {', '.join(sorted(there)[:5])}{' and more' if len(there) > 5 else ''} already; "
            "choose another directory, or overwrite with --force"
        )
    written = []
    for name, text in texts.items():
        path = directory / name
        if name in private and path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600 if name in private else 0o666)
            path.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise RunError(f"cannot write {path}: {problem.strerror or problem}") from problem
        written.append(path)
    return written


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        # Python and linters leave caches beside the modules among the templates.
        if item.name.startswith((".", "__pycache__")):
            continue
        if item.is_dir():
            yield from _files(item, f"{above}{item.name}/")
        else:
            yield above + item.name, item
