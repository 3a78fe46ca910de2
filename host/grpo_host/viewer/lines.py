"""The lines of a run's trajectory files, plain or compressed: where they stand, and what an index keeps."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

CHUNK = 1 << 20
PACKED = 1 << 15
"""Compressed bytes at a time: what is lost where some are damaged."""
HEAD = 256
"""Bytes of a file's first line, which has the trajectory's id, by which the file is known again."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file of trajectories as it is now."""

    name: str
    inode: int
    size: int
    """Uncompressed."""
    packed: bool


def files_of(run: Path) -> Iterator[Stamp]:
    """The run's files of trajectories, the oldest first."""
    packed = None
    for path in sorted(run.glob("trajectories.*.jsonl.gz")):
        packed = Stamp(path.name, path.stat().st_ino, _unpacked_size(path), packed=True)
        yield packed
    path = run / "trajectories.jsonl"
    if path.is_file():
        said = path.stat()
        # A full file is there twice for a moment: its copy is compressed before it is emptied.
        if packed is None or packed.size != said.st_size:
            yield Stamp(path.name, said.st_ino, said.st_size, packed=False)


def _unpacked_size(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


class JsonLines:
    """A file of lines, read by offsets of what is uncompressed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def chunks(self, offset: int) -> Iterator[bytes]:
        """The bytes from ``offset`` on. A damaged rest of a compressed file is left out."""
        with self._path.open("rb") as file:
            if self._path.suffix != ".gz":
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    yield chunk
                return
            unpack = zlib.decompressobj(wbits=31)
            while packed := file.read(PACKED):
                try:
                    chunk = unpack.decompress(packed)
                except zlib.error:
                    return
                if len(chunk) > offset:
                    yield chunk[offset:]
                offset = max(0, offset - len(chunk))

    def lines(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Complete lines from ``offset`` on, each with where it begins, without its end."""
        rest = b""
        for chunk in self.chunks(offset):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield offset, line
                offset += len(line) + 1

    def at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on."""
        found = b""
        for chunk in self.chunks(offset):
            found += chunk[: length - len(found)]
            if len(found) == length:
                break
        return found


class Row(NamedTuple):
    """What an index keeps of a trajectory."""

    values: tuple[Any, ...]
    label: str
    step: int | None
    text: str
    tools: list[tuple[str, bool]]
    """The name of each tool that was called, and whether it failed."""


def row_of(line: bytes) -> Row | None:
    """What an index keeps of ``line``; None if that is no trajectory."""
    try:
        data = _loads(line)
        task, number = data["task"], data["id"]
        label, _, _ = number.partition("/")
        step = int(label) if label.isdecimal() else None
        tokens, turns, failed, cut = 0, data.get("turns", ()), 0, 0
        tools: list[tuple[str, bool]] = []
        for turn in turns:
            tokens += turn["completion_tokens"]
            cut += turn.get("finish_reason") == "length"
            for run in turn["tools"]:
                wrong = run.get("error") is not None
                failed += wrong
                tools.append((run["name"], wrong))
        words, answers = _words(data["messages"])
        success = (data.get("outcome") or {}).get("success")
        values = (
            number,
            label,
            step,
            task.get("split", "train"),
            data.get("environment", ""),
            task["id"],
            data.get("sample", 0),
            data.get("reward"),
            None if success is None else bool(success),
            data["status"],
            len(turns),
            tokens,
            len(tools),
            failed,
            cut,
            zlib.crc32("\n".join(answers).encode()),
        )
        return Row(values, label, step, "\n".join(words), tools)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _loads(line: bytes) -> dict[str, Any]:
    """The trajectory without its ledger, which is most of the line."""
    start = line.find(b',"ledger":{"sequences":[')
    end = line.find(b',"outcome":', start) if start > 0 else -1
    if end > 0:
        try:
            value: dict[str, Any] = orjson.loads(line[:start] + line[end:])
            return value
        except ValueError:
            pass  # a task of its own has such a key
    whole: dict[str, Any] = orjson.loads(line)
    return whole


def _words(messages: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What everybody but the system says, and what the policy does."""
    said: list[str] = []
    answers: list[str] = []
    for message in messages:
        role = message["role"]
        if role == "system":
            continue
        words = [content] if (content := message.get("content")) else []
        for call in message.get("tool_calls") or ():
            function = call["function"]
            words.append(f"{function['name']} {function['arguments']}")
        said += words
        if role == "assistant":
            answers += words
    return said, answers
