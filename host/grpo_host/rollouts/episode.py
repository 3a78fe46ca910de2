"""One agent in one environment until done: an episode, recorded as a trajectory.

A failure is data on the trajectory, never an exception to the caller; only cancellation goes through.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from grpo_host.agents.agent import TurnLimitError, TurnTimeoutError
from grpo_host.agents.tracing import begin_recording
from grpo_host.plugins.failures import PluginFailure, blamed, described, log_once, pass_interrupts
from grpo_host.rollouts.asking import ASKING_FOR
from grpo_sdk.altered import altered
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.blocking import awaited, settled
from grpo_sdk.bundles import EpisodeTools
from grpo_sdk.deadline import Deadline
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.errors import ContextOverflowError
from grpo_sdk.messages import Message, as_messages
from grpo_sdk.numbers import plain
from grpo_sdk.recording import recording
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Ledger, Status, StopReason, Task, TokenSequence, Trajectory, Turn

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
"""How long an environment may take to close."""


class EpisodeConversation(Protocol):
    """What an agent comes to in an episode: a ``Conversation``, or an app that is played."""

    @property
    def messages(self) -> list[Message]:
        """All that was said."""

    @property
    def turns(self) -> list[Turn]:
        """The model calls so far."""

    async def act(self, new: Sequence[Message]) -> Message:
        """Answer ``new``. Raises as ``Conversation.act`` does."""

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        """The exact tokens so far; None if the backend does not speak them."""


class EpisodeAgent(Protocol):
    """Who plays an episode: an ``Agent``, or an app."""

    @property
    def backend(self) -> Backend:
        """Where its tokens come from."""

    @property
    def sampling(self) -> Sampling:
        """How it is sampled."""

    def sampled(self, **changes: Any) -> EpisodeAgent:
        """The same with ``changes`` to its sampling."""

    async def replay(self, dialogue: Sequence[Message], tools: Sequence[ToolLike]) -> list[TokenSequence]:
        """The tokens of an episode with the environment's ``tools`` in which ``dialogue`` was said.

        Raises ``ConfigError`` if it cannot have been.
        """

    def open_episode(
        self,
        task: Task,
        *,
        tools: Sequence[ToolLike],
        history: Sequence[Message],
        seed: int,
        policy_version: int,
    ) -> EpisodeConversation:
        """Begin ``task``, after ``history``, with the environment's ``tools``."""


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """Which episode to run."""

    task: Task
    sample: int = 0
    """Index within the episodes of the task in its batch."""
    seed: int = 0
    """Of what the policy samples."""
    environment_seed: int = 0
    """Of the environment: the same for all episodes of a group, so that they are comparable."""
    id: str = ""


@dataclass(slots=True)
class _Progress:
    """What an episode has come to so far: all that is left when it is cut short."""

    conversation: EpisodeConversation | None = None
    followed: int = 0
    """How many of its messages the environment has heard of."""
    opening: list[Message] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    recorded: dict[str, float] = field(default_factory=dict)


async def run_episode(
    agent: EpisodeAgent,
    make_environment: Callable[[], Environment],
    request: EpisodeRequest,
    *,
    environment_name: str,
    seconds: float,
    policy_version: int = 0,
) -> Trajectory:
    """Run one episode of at most ``seconds`` and record it.

    ``completed`` and ``truncated`` (turns or context used up) episodes are scored. One that ran
    into an error or a time limit is ``failed``: time depends on the machine, and a reward for it
    would teach noise.
    """
    # Each episode's own: one that changes its task changes no other's.
    data = request.task.data
    task = altered(request.task, data=copy.deepcopy(data) if data else {})
    started, clock = time.time(), time.perf_counter()
    progress = _Progress()
    status: Status = "failed"
    stop, error = StopReason.ERROR, None
    environment: Environment | None = None
    tools = EpisodeTools()
    recorded = begin_recording(request.id)
    ASKING_FOR.set(request.id)
    try:
        async with tools:
            with Deadline(seconds):
                environment = make_environment()
                with recording(progress.recorded):
                    await _play(
                        agent, environment, task, request, progress, policy_version, _who(environment_name)
                    )
        status, stop = "completed", StopReason.DONE
    except TurnLimitError:
        status, stop = "truncated", StopReason.TURN_LIMIT
    except ContextOverflowError as problem:
        status, stop, error = "truncated", StopReason.CONTEXT, str(problem)
    except TurnTimeoutError as problem:
        stop, error = StopReason.TURN_TIMEOUT, str(problem)
    except TimeoutError as problem:
        stop, error = _timed_out(problem, seconds, time.perf_counter() - clock)
    except PluginFailure as problem:
        error = str(problem)
    except Exception as problem:
        error = described(problem)
        log_once("an episode", f"an episode failed: {error}", problem)
    finally:
        recorded.over = True
        if environment is not None:
            if status == "truncated":
                progress.outcome = _late_outcome(environment, progress, _who(environment_name))
            await _close(environment, _who(environment_name))
    if tools.problem is not None:  # no fault of the policy
        status, stop, error = "failed", StopReason.ERROR, tools.problem
    conversation = progress.conversation
    return Trajectory(
        id=request.id,
        environment=environment_name,
        task=task,
        status=status,
        stop_reason=stop,
        messages=conversation.messages if conversation else progress.opening,
        turns=conversation.turns if conversation else [],
        ledger=conversation.ledger(spans=True) if conversation else None,
        outcome=progress.outcome,
        error=error,
        sample=request.sample,
        seed=request.seed,
        policy_version=policy_version,
        model=agent.backend.model.name,
        started=started,
        seconds=time.perf_counter() - clock,
        trace=_active_trace(),
        environment_reward=progress.reward,
        recorded=progress.recorded,
    )


def _active_trace() -> str | None:
    trace = sys.modules.get("opentelemetry.trace")  # who has not imported it has begun no span
    span = None if trace is None else trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if trace and span and span.is_valid else None


async def _play(
    agent: EpisodeAgent,
    environment: Environment,
    task: Task,
    request: EpisodeRequest,
    progress: _Progress,
    policy_version: int,
    who: str,
) -> None:
    with blamed(who, "reset"):
        observation = await awaited(environment.reset(task, seed=request.environment_seed), "reset")
        if not isinstance(observation, Observation):
            raise TypeError(f"it must return an Observation, not {type(observation).__name__}")
        new = progress.opening = as_messages(observation.messages)
    with blamed(who, "tools"):
        tools = await settled(environment.tools())
    history: list[Message] = []
    if new and new[0]["role"] == "system":
        history, new = new[:1], new[1:]
    conversation = progress.conversation = agent.open_episode(
        task,
        tools=tools,
        history=history,
        seed=request.seed,
        policy_version=policy_version,
    )
    while True:
        message = await conversation.act(new)
        with blamed(who, "follow"):
            _follow(environment, progress)
        with blamed(who, "step"):
            result = await awaited(environment.step(message), "step")
            new = _heard(result)
            progress.outcome.update(plain(result.outcome))
            if result.reward is not None:
                progress.reward = (progress.reward or 0.0) + float(result.reward)
        if result.done:
            conversation.messages.extend(new)
            return


def _who(environment: str) -> str:
    return f'environment "{environment}"'


def _heard(result: Any) -> list[Message]:
    """What the environment says in ``result``. Raises ``TypeError`` or ``ValueError`` if it is no answer."""
    if not isinstance(result, StepResult):
        raise TypeError(f"it must return a StepResult, not {type(result).__name__}")
    if result.reward is not None and not math.isfinite(result.reward):
        raise ValueError(f"it gave the reward {result.reward}, which must be a finite number")
    if not result.done and not result.messages:
        raise ValueError("it is not done but has nothing to say to the agent")
    return as_messages(result.messages)


def _timed_out(problem: TimeoutError, seconds: float, elapsed: float) -> tuple[StopReason, str]:
    """Our own time limit, or a ``TimeoutError`` that the environment or backend raised."""
    if elapsed >= seconds:
        return StopReason.EPISODE_TIMEOUT, f"the episode took more than {seconds:g} s"
    return StopReason.ERROR, f"TimeoutError: {problem}"


def _follow(environment: Environment, progress: _Progress) -> None:
    if progress.conversation is None:
        return
    said = progress.conversation.messages[progress.followed :]
    progress.followed += len(said)
    environment.follow(said)


def _late_outcome(environment: Environment, progress: _Progress, who: str) -> dict[str, Any]:
    try:
        _follow(environment, progress)
        return {**progress.outcome, **plain(environment.outcome())}
    except BaseException as problem:  # plugin code
        pass_interrupts(problem)
        logger.warning("%s: outcome(): %s", who, described(problem))
        return progress.outcome


async def _close(environment: Environment, who: str) -> None:
    if getattr(environment.close, "__func__", None) is Environment.close:
        return  # it holds nothing; a call of it within a time limit costs as much as a turn's
    try:
        with Deadline(CLOSE_SECONDS):
            await awaited(environment.close(), "close")
    except BaseException as problem:  # plugin code; the episode's own result stands
        pass_interrupts(problem)
        logger.warning("%s: close(): %s", who, described(problem))
