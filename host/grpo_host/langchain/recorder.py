"""Record the production runs of any LangChain app as trajectories, with what people thought of them later."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from filelock import FileLock
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from opentelemetry.trace import format_trace_id, get_current_span

from grpo_host.agents.model_calls import comparable
from grpo_host.agents.tracing import Recording, begin_recording
from grpo_host.langchain.tool_watch import ToolWatch
from grpo_host.utils.atomic import write_text
from grpo_host.utils.paths import expanded
from grpo_sdk.backend import FinishReason
from grpo_sdk.errors import ConfigError
from grpo_sdk.langchain_messages import to_messages
from grpo_sdk.messages import Message
from grpo_sdk.numbers import check_number
from grpo_sdk.trajectory import StopReason, Task, Trajectory, Turn

logger = logging.getLogger(__name__)


@dataclass
class _Call:
    """A model call that is under way."""

    messages: list[BaseMessage]
    model: str
    started: float = field(default_factory=time.perf_counter)


@dataclass
class _Run:
    """An outermost run of the app."""

    id: UUID
    name: str
    data: dict[str, Any]
    trace: str | None
    recording: Recording
    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    inner: set[UUID] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)
    told: set[Hashable] = field(default_factory=set)
    turns: list[Turn] = field(default_factory=list)
    asked: dict[str, Turn] = field(default_factory=dict)
    model: str = ""
    unread: str | None = None
    """Why a message could not be kept."""


class TrajectoryRecorder(ToolWatch):
    """Appends each run of an app that calls a chat model to ``path``, one JSON line a run.

    Give it as a callback: ``app.invoke(given, {"callbacks": [TrajectoryRecorder("runs.jsonl")]})``. The
    run's id in LangChain is the trajectory's, and stands on the spans of our models and agents within it as
    ``grpo.trajectory``; the metadata of the call are the data of its task. Nothing is
    trained from it: hosted models tell no token ids. ``grpo-host score`` takes the file, and a warm start
    imitates it. What a person thought is added later by ``add_feedback``. It never fails the app: what
    cannot be recorded is logged. Any number of threads and processes may append to one file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__({})
        self.path = expanded(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._runs: dict[UUID, _Run] = {}
        """By the id of every run within them that has begun."""
        self._calls: dict[UUID, _Call] = {}

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: dict[str, Any], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._begin(run_id, serialized, kwargs)

    def on_retriever_start(
        self, serialized: dict[str, Any], query: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._begin(run_id, serialized, kwargs)

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        run = self._begin(run_id, serialized, kwargs)
        self._begin_tool(run_id, serialized, kwargs, run.asked)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._begin(run_id, serialized, {**kwargs, "metadata": metadata})
        self._calls[run_id] = _Call(list(messages[0]), str((metadata or {}).get("ls_model_name") or ""))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        run, call = self._runs.get(run_id), self._calls.pop(run_id, None)
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        if run is not None and call is not None and isinstance(generation, ChatGeneration):
            said = generation.message
            if isinstance(said, AIMessage):
                with self._lock:
                    _note(run, call, said)
        self._end(run_id, None)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, None)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, None)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        super().on_tool_end(output, run_id=run_id)
        self._end(run_id, None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        super().on_tool_error(error, run_id=run_id)
        self._end(run_id, error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._calls.pop(run_id, None)
        self._end(run_id, error)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def _begin(self, run_id: UUID, serialized: Any, told: Mapping[str, Any]) -> _Run:
        with self._lock:
            run = self._runs.get(told["parent_run_id"]) if told.get("parent_run_id") else None
            if run is None:
                span = get_current_span()
                traced = span.get_span_context().is_valid
                run = _Run(
                    run_id,
                    str(told.get("name") or (serialized or {}).get("name") or ""),
                    _data(told.get("metadata") or {}),
                    format_trace_id(span.get_span_context().trace_id) if traced else None,
                    begin_recording(str(run_id)),
                )
                if traced:
                    span.set_attribute("grpo.trajectory", str(run_id))
            run.inner.add(run_id)
            self._runs[run_id] = run
            return run

    def _end(self, run_id: UUID, error: BaseException | None) -> None:
        """Forget a run; write it if it is an outermost one."""
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or run.id != run_id:
                return
            for inner in run.inner:
                self._runs.pop(inner, None)
            run.recording.over = True
        if not run.turns:
            return  # no chat model answered
        try:
            line = _trajectory(run, error).to_json()
            with FileLock(_lock_of(self.path)), self.path.open("ab") as file:
                file.write(line + b"\n")
        except Exception:
            logger.exception("%s: the run %s could not be recorded", self.path, run.id)


def add_feedback(path: str | Path, feedback: Mapping[str, Mapping[str, float]]) -> int:
    """Add scores to recorded trajectories: ``{"run id": {"helpful": 1.0}}``. Returns how many were found.

    They are what ``record_reward`` would have told: ``rewards: [{name: recorded, options: {of: helpful}}]``
    counts them. A later score of a name replaces an earlier one. The file is replaced atomically. Raises
    ``ConfigError`` for scores that are no numbers and for lines that are no trajectories.
    """
    file = expanded(path)
    for id, said in feedback.items():
        for name, value in said.items():
            check_number(f"the score {name} of {id}", value, float)
            if not math.isfinite(value):
                raise ConfigError(f"the score {name} of {id} must be finite, not {value}")
    found: set[str] = set()
    with FileLock(_lock_of(file)):
        lines = []
        try:
            text = file.read_bytes()
        except OSError as problem:
            raise ConfigError(f"{file} cannot be read: {problem.strerror or problem}") from problem
        for number, line in enumerate(text.splitlines(), 1):
            try:
                told = feedback.get(orjson.loads(line)["id"])
                if told:
                    trajectory = Trajectory.from_json(line)
                    scores = {name: float(value) for name, value in told.items()}
                    line = replace(trajectory, recorded={**trajectory.recorded, **scores}).to_json()
                    found.add(trajectory.id)
            except (ValueError, KeyError, TypeError) as problem:
                raise ConfigError(f"{file}:{number}: this line is no trajectory: {problem}") from problem
            lines.append(line)
        if found:
            write_text(file, b"".join(line + b"\n" for line in lines).decode())
    return len(found)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _data(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the app said of the call; words of LangChain's, LangGraph's and our own are left out."""
    own = ("ls_", "lc_", "langgraph_", "grpo_", "__")
    said = {key: value for key, value in metadata.items() if not key.startswith(own)}
    kept: dict[str, Any] = json.loads(json.dumps(said, default=str))
    return kept


def _note(run: _Run, call: _Call, said: AIMessage) -> None:
    """Keep one model call: each message once, in the order in which they were heard."""
    try:
        heard, answer = to_messages(call.messages), to_messages([*call.messages, said])[-1]
    except ConfigError as problem:  # an image, say
        run.unread = str(problem)
        heard, answer = [], {"role": "assistant", "content": said.text}
    for message in [*heard, answer]:
        key = comparable(message)
        if key not in run.told or message is answer:
            run.messages.append(message)
            run.told.add(key)
    used = said.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
    turn = Turn(
        used["input_tokens"], used["output_tokens"], time.perf_counter() - call.started, _reason(said)
    )
    run.turns.append(turn)
    run.asked.update({call["id"]: turn for call in said.tool_calls if call["id"]})
    run.model = run.model or call.model


def _reason(said: AIMessage) -> FinishReason:
    about = said.response_metadata
    told = about.get("finish_reason") or about.get("stop_reason")
    if told in ("length", "max_tokens"):
        return FinishReason.LENGTH
    return FinishReason.TOOL_CALLS if said.tool_calls else FinishReason.STOP


def _trajectory(run: _Run, error: BaseException | None) -> Trajectory:
    failed = error is not None
    return Trajectory(
        id=str(run.id),
        environment=run.name,
        task=Task(str(run.id), run.data),
        status="failed" if failed else "completed",
        stop_reason=StopReason.ERROR if failed else StopReason.DONE,
        messages=run.messages,
        turns=run.turns,
        outcome={"unread": run.unread} if run.unread else {},
        error=f"{type(error).__name__}: {error}" if failed else None,
        model=run.model,
        started=run.began,
        seconds=time.perf_counter() - run.started,
        trace=run.trace,
    )
