"""Keeps what was answered, one JSON object a line, and answers from that.

An answer is found by episode, who was asked, the request's digest, and how often the same was asked there
before: none of these depends on how many episodes run side by side.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import shutil
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from grpo_host.recorded.files import compressed_files, ends_a_line, lines_of, recorded_files
from grpo_host.recorded.request import Request, difference, tool_request
from grpo_host.utils.atomic import append_whole
from grpo_sdk import errors
from grpo_sdk.errors import GrpoError, ProviderError, RunError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, tool_result
from grpo_sdk.tools import BoundTool
from grpo_sdk.trajectory import ToolRun, Trajectory

logger = logging.getLogger("grpo_host.runs")
T = TypeVar("T")

LARGE_BYTES = 64 * 1024 * 1024
"""A file of this size is compressed when its run ends."""

Ask = Callable[[], Awaitable[T]]
Answered = tuple[Message, ToolRun]


class Answers(ABC):
    """What answers in place of tools, judges and hosted models, or beside them."""

    def __init__(self) -> None:
        self.problem: RunError | None = None
        """Why the run cannot go on: an episode or a reward would only fail of it."""
        self._asked: dict[str, Counter[tuple[str, str]]] = {}
        self._lock = threading.Lock()  # judges are asked in threads of their own

    @property
    @abstractmethod
    def replays(self) -> bool:
        """Whether nobody else is asked."""

    @abstractmethod
    async def answer(
        self, request: Request, ask: Ask[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]
    ) -> T:
        """The answer to ``request``, which ``ask`` would give; ``pack`` makes JSON of it."""

    @abstractmethod
    async def tool_call(
        self, turn: int, call: ToolCall, run: Callable[[ToolCall], Awaitable[Answered]]
    ) -> Answered:
        """What a tool answers to ``call``, which ``run`` runs."""

    def see(self, trajectory: Trajectory) -> None:
        """An episode is over and scored. Raises ``problem``."""
        with self._lock:
            self._asked.pop(trajectory.id, None)
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        """Nobody asks any more."""

    def _again(self, request: Request) -> int:
        """How often the same was asked before."""
        with self._lock:
            asked = self._asked.setdefault(request.episode, Counter())
            key = (request.who, request.digest)
            asked[key] += 1
            return asked[key] - 1


class Recording(Answers):
    """Appends every answer to the file ``path``."""

    replays = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        # A line that a crash cut short stays alone.
        self._begin = b"" if ends_a_line(path) else b"\n"

    def keep_tools(self, schemas: Mapping[str, Sequence[ToolSchema]]) -> None:
        """Note the tools of agent.yaml: those of each item of ``agent.tools``."""
        self._write({"tools": schemas})

    async def answer(
        self, request: Request, ask: Ask[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]
    ) -> T:
        again = self._again(request)
        try:
            given = await ask()
        except asyncio.CancelledError:
            self._keep(request, again, {"cut": True})
            raise
        except Exception as problem:
            status = problem.status if isinstance(problem, ProviderError) else None
            said = {"type": type(problem).__name__, "text": str(problem), "status": status}
            self._keep(request, again, {"error": said})
            raise
        self._keep(request, again, {"value": pack(given)})
        return given

    async def tool_call(
        self, turn: int, call: ToolCall, run: Callable[[ToolCall], Awaitable[Answered]]
    ) -> Answered:
        return await self.answer(
            tool_request(turn, call), lambda: run(call), _packed_tool, lambda packed: _tool(call, packed)
        )

    def close(self) -> None:
        if self.path.is_file() and self.path.stat().st_size >= LARGE_BYTES:
            number = 1 + len(compressed_files(self.path))
            target = self.path.with_name(f"{self.path.stem}.{number:04d}.jsonl.gz")
            partial = target.with_suffix(".partial")
            try:
                with self.path.open("rb") as source, gzip.open(partial, "wb", 5) as packed:
                    shutil.copyfileobj(source, packed)
                partial.replace(target)
            except OSError as problem:  # a replay reads it as it is
                logger.warning("%s is not compressed: %s", self.path, problem.strerror or problem)
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                return
            self.path.unlink()

    def _keep(self, request: Request, again: int, answer: Mapping[str, Any]) -> None:
        self._write(
            {
                "episode": request.episode,
                "turn": request.turn,
                "who": request.who,
                "digest": request.digest,
                "again": again,
                "request": request.parts,
                **answer,
            }
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        try:
            with self._lock:
                append_whole(self.path, self._begin + data)
                self._begin = b""
        except OSError as problem:
            self.problem = RunError(
                f"cannot write {self.path}: {problem.strerror or problem}; the recording would have a gap. "
                "Make room or mend that, and run again with --resume"
            )


class Replay(Answers):
    """Answers from what the run at ``run`` has recorded; nobody else is asked.

    Raises ``RunError`` if it has recorded nothing.
    """

    replays = True

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run
        self.tools: dict[str, list[ToolSchema]] = {}
        """The tools of agent.yaml: those of each item of ``agent.tools``."""
        self._kept: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        self._of_episode: dict[str, list[dict[str, Any]]] = {}
        if not sum(map(self._read, recorded_files(run))):
            raise RunError(f"{run} has recorded no answers; make such a run with --record")

    def tools_of(self, item: str) -> list[BoundTool]:
        """The tools that the ``item`` of agent.yaml brought, as the model is shown them; none is ever run.

        Raises ``RunError`` if nothing is recorded of it.
        """
        if item not in self.tools:
            raise RunError(
                f"{item}: the run {self.run} has recorded no such tool; it has: "
                f"{', '.join(self.tools) or 'none'}. Replay it with the agent.yaml of that run"
            )

        async def run(_: dict[str, Any]) -> Any:
            raise RuntimeError("a replay runs no tool")

        return [BoundTool(schema["function"]["name"], schema, run) for schema in self.tools[item]]

    async def answer(
        self, request: Request, ask: Ask[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]
    ) -> T:
        return unpack(self._value(request))

    async def tool_call(
        self, turn: int, call: ToolCall, run: Callable[[ToolCall], Awaitable[Answered]]
    ) -> Answered:
        request, name = tool_request(turn, call), call["function"]["name"]
        if any(name == schema["function"]["name"] for schemas in self.tools.values() for schema in schemas):
            return _tool(call, self._value(request))
        # An environment's own: what it does to the environment must happen again.
        given = await run(call)
        recorded, now = self._value(request)["text"], given[0]["content"]
        if recorded != now:
            self._fail(
                f"{request.where}: {request.who}, which the environment brings, answers {now!r:.200} now, "
                f"and answered {recorded!r:.200}. An environment is played anew: for one seed it "
                "must be the same"
            )
        return given

    def _value(self, request: Request) -> Any:
        kept = self._kept.get((request.episode, request.who, request.digest, self._again(request)))
        if kept is None:
            self._fail(self._missing(request))
        kept["taken"] = True
        if "cut" in kept:
            raise TimeoutError("in the recording, a time limit or the end of the run cut this short")
        if "error" in kept:
            raise _raised(kept["error"])
        return kept["value"]

    def _missing(self, request: Request) -> str:
        of_episode = self._of_episode.get(request.episode)
        if of_episode is None:
            return f"{request.where}: nothing is recorded of it, and {request.who} is asked"
        open_ = [kept for kept in of_episode if "taken" not in kept and kept["who"] == request.who]
        if not open_:
            others = [kept["who"] for kept in of_episode if "taken" not in kept]
            instead = f"; asked was {others[0]}" if others else ""
            return f"{request.where}: {request.who} is asked, and was not{instead}"
        nearest = next((kept for kept in open_ if kept["turn"] == request.turn), open_[0])
        differs = difference(request.parts, nearest["request"])
        return f"{request.where}: {request.who} is asked otherwise: {differs}"

    def _fail(self, what: str) -> NoReturn:
        problem = RunError(
            f"the replay of {self.run} has come to what was not recorded: {what}. Replay it with the "
            "agent.yaml, the code and the weights of that run; a policy that samples here repeats itself "
            "with deterministic: true"
        )
        self.problem = self.problem or problem
        raise problem

    def _read(self, file: Path) -> int:
        """Gives how many lines are read."""
        count = 0
        for line in lines_of(file):
            count += 1
            if "tools" in line:
                self.tools = line["tools"]
                continue
            key = (line["episode"], line["who"], line["digest"], line["again"])
            if key in self._kept:  # a resumed run has played the episode anew
                self._kept[key].update(taken=True)
            self._kept[key] = line
            self._of_episode.setdefault(line["episode"], []).append(line)
        return count


def _packed_tool(given: Answered) -> dict[str, Any]:
    message, run = given
    return {"text": message["content"], "run": asdict(run)}


def _tool(call: ToolCall, packed: Mapping[str, Any]) -> Answered:
    return tool_result(call, packed["text"]), ToolRun(**{**packed["run"], "call_id": call["id"]})


def _raised(said: Mapping[str, Any]) -> Exception:
    """What was raised, as far as its text and its name go."""
    name, text = said["type"], said["text"]
    if name == "ProviderError":
        return ProviderError(text, status=said.get("status"))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, GrpoError) and "__init__" not in vars(kind):
        return kind(text)
    return TimeoutError(text) if name == "TimeoutError" else type(name, (Exception,), {})(text)
