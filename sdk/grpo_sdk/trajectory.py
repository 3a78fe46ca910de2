"""The frozen, JSON-able record of one episode: messages, exact tokens, rewards, timings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from grpo_sdk.backend import FinishReason
from grpo_sdk.messages import Message, as_messages

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 1
"""Version of a trajectory's JSON. Lines without one are from before there was a number: version 0."""

Status = Literal["completed", "truncated", "failed"]
"""``completed``: the environment said done. ``truncated``: a limit ended it. ``failed``: an error did."""


class StopReason(StrEnum):
    """What ended an episode."""

    DONE = "done"
    """The environment said so."""
    TURN_LIMIT = "turn_limit"
    """The model was asked as often as an episode may."""
    CONTEXT = "context"
    """The model's context was full."""
    TURN_TIMEOUT = "turn_timeout"
    """One answer of the model took too long."""
    EPISODE_TIMEOUT = "episode_timeout"
    """The whole episode took too long."""
    ERROR = "error"
    """Something raised."""


@dataclass(frozen=True, slots=True)
class Task:
    """What an environment poses: everything needed to begin the same episode again."""

    id: str
    """Unique within its environment and stable between runs."""
    data: dict[str, Any] = field(default_factory=dict)
    """JSON-able; the environment decides what it holds."""
    split: str = "train"
    """``train``, ``held_out`` or ``validation``: what it is used for."""
    kind: str = ""
    """Which kind of task, if an environment has several: metrics are given for each. In a mixture it
    begins with the environment's name."""


@dataclass(frozen=True, slots=True)
class MessageSpan:
    """The ids ``start`` to ``end`` (the first one after it) of a sequence, which write one message."""

    start: int
    """Index of the first id."""
    end: int
    """Index after the last id."""
    role: str
    """Of the message: system, user, assistant or tool."""


@dataclass(frozen=True, slots=True)
class TokenConstraint:
    """What the ids ``start`` to ``end`` (the first one after it) of a sequence were sampled under."""

    start: int
    """Index of the first id."""
    end: int
    """Index behind the last one."""
    grammar: str
    """As ``Sampling.grammar``. The logprobs are those of what it leaves, id by id."""
    stop_ids: list[int] = field(default_factory=list)
    """The ids that end an answer: allowed wherever the grammar has come to its end, and nowhere else."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """The exact ids of one uninterrupted context, as the backend saw and sampled them.

    The four lists have equal length. Concatenating sampled ids and template ids never goes
    through text, so what was sampled is what is trained on.
    """

    ids: list[int]
    """Token ids, in order."""
    mask: list[int]
    """1 = sampled by the policy, 0 = everything else (prompt, tool results, template)."""
    logprobs: list[float]
    """Natural-log probability of each sampled id under the policy that sampled it; 0.0 if mask is 0."""
    versions: list[int]
    """Policy version that sampled each id; -1 where mask is 0."""
    spans: list[MessageSpan] = field(default_factory=list)
    """Where each message stands, in order. What a template writes before a message belongs to it, so that
    each span begins where the one before ends. Messages that it writes as one (a system prompt in a
    user's message, results of several tools), or otherwise once others follow, have one span, with the
    role of the last. Empty in trajectories that were written before there were spans."""
    role: str = ""
    """Whose calls these are, if an app has several agents: the name of the agent, node or middleware."""
    weight: float = 1.0
    """Factor of its loss. 0: it is recorded and not trained, since its role is not, or since an answer in it
    was cut short, so that the log-probs of its ids, here 0.0, are not known."""
    constraints: list[TokenConstraint] = field(default_factory=list)
    """In order. Ids outside of them were sampled from the whole vocabulary."""

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.mask), len(self.logprobs), len(self.versions)}
        if len(lengths) != 1:
            raise ValueError(
                f"ledger lists differ in length: ids {len(self.ids)}, mask {len(self.mask)}, "
                f"logprobs {len(self.logprobs)}, versions {len(self.versions)}"
            )

    @property
    def prompt_length(self) -> int:
        """How many ids come before the first sampled one."""
        return self.mask.index(1) if 1 in self.mask else len(self.mask)

    @property
    def sampled(self) -> int:
        """How many ids the policy sampled."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every token of a trajectory, each sampled one in exactly one sequence.

    More than one sequence if a chat template rewrote its history, or if the agent is an app whose model
    calls do not all extend one another.
    """

    sequences: list[TokenSequence] = field(default_factory=list)
    """In the order in which they were begun."""

    @property
    def forks(self) -> int:
        """How often a model call could not extend what there was, and a new sequence began."""
        return max(0, len(self.sequences) - 1)

    @property
    def sampled(self) -> int:
        """How many ids the policy sampled in all sequences."""
        return sum(sequence.sampled for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One execution of a tool."""

    name: str
    """The tool's name."""
    call_id: str
    """``id`` of the ``ToolCall``."""
    seconds: float
    """What the tool took."""
    error: str | None = None
    """Why it failed (invalid call, timeout, exception), or None."""
    truncated: bool = False
    """Whether the output was cut to its limit."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call and the tools that it asked for."""

    prompt_tokens: int
    """Tokens that the model was shown."""
    completion_tokens: int
    """Tokens that it answered with."""
    seconds: float
    """What the model took, without the tools."""
    finish_reason: FinishReason
    """Why the answer ended."""
    tools: list[ToolRun] = field(default_factory=list)
    """In the order of the calls."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "finish_reason", FinishReason(self.finish_reason))


@dataclass(frozen=True, slots=True)
class RewardRecord:
    """The value that one reward gave this trajectory."""

    value: float | None
    """None: the reward failed, and ``error`` says why."""
    weight: float = 1.0
    """Factor of ``value`` in the trajectory's reward."""
    parts: dict[str, float] = field(default_factory=dict)
    """What ``value`` is made of, by name."""
    explanation: str = ""
    """For people: why the value is what it is."""
    error: str | None = None
    """Why there is no value, or None."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The record of one episode."""

    id: str
    """Unique within its run."""
    environment: str
    """Name of the environment."""
    task: Task
    """What was posed."""
    status: Status
    """Whether the episode was completed, cut by a limit, or failed."""
    stop_reason: StopReason
    """What ended the episode."""
    messages: list[Message]
    """The whole conversation, in order."""
    turns: list[Turn] = field(default_factory=list)
    """The model calls, in order."""
    ledger: Ledger | None = None
    """None if the backend does not speak token ids."""
    outcome: dict[str, Any] = field(default_factory=dict)
    """What the environment measured, e.g. ``{"success": True}``; never written by the policy."""
    rewards: dict[str, RewardRecord] = field(default_factory=dict)
    """What each reward gave, by its name."""
    reward: float | None = None
    """Weighted sum of ``rewards``; None if the episode or a reward failed."""
    error: str | None = None
    """Why the episode failed, or None."""
    sample: int = 0
    """Its index within the group of its task."""
    seed: int = 0
    """From which its samples' seeds come."""
    policy_version: int = 0
    """Of the weights that it was played with; 0: the first."""
    model: str = ""
    """The model's name."""
    started: float = 0.0
    """Unix time."""
    seconds: float = 0.0
    """How long the episode took."""
    trace: str | None = None
    """Id of the OpenTelemetry trace (32 hexadecimal digits) in which the episode ran, if it ran in one."""
    environment_reward: float | None = None
    """The sum of what the environment gave for its steps; None if it gave nothing."""
    recorded: dict[str, float] = field(default_factory=dict)
    """What ``record_reward`` was told within the episode, by name; of several values the sum."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_reason", StopReason(self.stop_reason))

    @classmethod
    def of_messages(
        cls,
        messages: Sequence[Mapping[str, Any]],
        *,
        context: Mapping[str, Any] | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> Trajectory:
        """Make a trajectory that rewards can score from a conversation from elsewhere.

        ``context`` becomes the data of its task. Raises ``ValueError`` if
        ``messages`` are no messages.
        """
        task = Task("conversation", dict(context or {}))
        return cls(
            id="conversation",
            environment="",
            task=task,
            status="completed",
            stop_reason=StopReason.DONE,
            messages=as_messages(messages),
            outcome=dict(outcome or {}),
        )

    @property
    def policy_messages(self) -> list[Message]:
        """What the policy said. Tool results and the environment's words are not in here."""
        return [message for message in self.messages if message["role"] == "assistant"]

    @property
    def tool_messages(self) -> list[Message]:
        """What tools answered."""
        return [message for message in self.messages if message["role"] == "tool"]

    @property
    def environment_messages(self) -> list[Message]:
        """What the environment said: its user messages."""
        return [message for message in self.messages if message["role"] == "user"]

    @property
    def policy_text(self) -> str:
        """All that the policy said to the user, without its tool calls."""
        return "\n".join(m["content"] for m in self.policy_messages if m["content"])

    @property
    def final_text(self) -> str:
        """The policy's last words, or an empty string."""
        said = self.policy_messages
        return said[-1]["content"] if said else ""

    @property
    def tool_errors(self) -> int:
        """How many tool calls failed."""
        return sum(run.error is not None for turn in self.turns for run in turn.tools)

    def to_json(self) -> bytes:
        """One line of JSON. Objects of plugins that JSON cannot hold are written as their ``repr``."""
        try:
            line = _adapter().dump_json(self)
        except ValueError:  # an object in ``outcome``, or half a surrogate pair in a text
            line = json.dumps(asdict(self), ensure_ascii=False, default=repr).encode("utf-8", "replace")
        return b'{"format":%d,' % FORMAT + line[1:]

    @staticmethod
    def from_json(line: str | bytes) -> Trajectory:
        """Read what ``to_json`` of this version or an older one wrote.

        Raises ``ValueError`` if the line is no trajectory, or one of a newer version.
        """
        from pydantic_core import from_json

        data = from_json(line)
        if not isinstance(data, dict):
            raise ValueError(f"a trajectory is a JSON object, and this is {type(data).__name__}")
        written = data.pop("format", 0)
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(
                f"the trajectory has the format {written!r:.20}, and this version reads formats up to "
                f"{FORMAT}: upgrade grpo-agent-framework"
            )
        outcome = data.get("outcome")
        if written == 0 and isinstance(outcome, dict):
            data["environment_reward"] = outcome.pop("environment_reward", None)
        return _adapter().validate_python(data)


@cache
def _adapter() -> TypeAdapter[Trajectory]:
    from pydantic import TypeAdapter

    return TypeAdapter(Trajectory)


Group = Sequence[Trajectory]
"""The trajectories of one task that GRPO compares."""
