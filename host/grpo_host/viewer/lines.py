"""The lines of a run's trajectory files, plain or compressed: where they stand, and what an index keeps."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

CHUNK = 1 << 20
TAIL = 64
"""Bytes before an offset by which a file is known again."""


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
            while packed := file.read(CHUNK // 4):
                try:
                    chunk = unpack.decompress(packed)
                except zlib.error:
                    return
                if len(chunk) > offset:
                    yield chunk[offset:]
                offset = max(0, offset - len(chunk))

    def batches(self, offset: int, size: int) -> Iterator[list[tuple[int, bytes]]]:
        """Complete lines from ``offset`` on, each with where it begins."""
        batch: list[tuple[int, bytes]] = []
        rest = b""
        for chunk in self.chunks(offset):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                batch.append((offset, line + b"\n"))
                offset += len(line) + 1
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on."""
        found = b""
        for chunk in self.chunks(offset):
            found += chunk[: length - len(found)]
            if len(found) == length:
                break
        return found

    def tail(self, offset: int) -> bytes:
        """The last bytes before ``offset``."""
        return self.at(max(0, offset - TAIL), min(TAIL, offset))


@dataclass(frozen=True, slots=True)
class Row:
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
        task, turns = data["task"], data.get("turns", ())
        label, _, _ = data["id"].partition("/")
        said = [message for message in data["messages"] if message["role"] != "system"]
        tools = [(run["name"], run.get("error") is not None) for turn in turns for run in turn["tools"]]
        success = (data.get("outcome") or {}).get("success")
        text = "\n".join(_words(said))
        answers = "\n".join(_words([message for message in said if message["role"] == "assistant"]))
        step = int(label) if label.isdecimal() else None
        values = (
            data["id"],
            label,
            step,
            task.get("split", "train"),
            data.get("environment", ""),
            task["id"],
            data.get("sample", 0),
            data.get("reward"),
            None if success is None else int(bool(success)),
            data["status"],
            len(turns),
            sum(turn["completion_tokens"] for turn in turns),
            len(tools),
            sum(failed for _, failed in tools),
            zlib.crc32(answers.encode("utf-8", "surrogatepass")),
        )
        return Row(values, label, step, text, tools)
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


def _words(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        if content := message.get("content"):
            yield str(content)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            yield f"{function['name']} {function['arguments']}"
