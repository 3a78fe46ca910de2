"""Ask a judge for one verdict: retry failures, and have useless answers corrected."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_rewards.ruler.prompt import CORRECTION, build_prompt
from grpo_rewards.ruler.usage import JudgeUsage
from grpo_rewards.ruler.verdict import UnusableAnswerError, Verdict, read_verdicts
from grpo_sdk.backend import Backend, Capability, ChatReply, Sampling
from grpo_sdk.errors import (
    CapabilityError,
    ConfigError,
    ContextOverflowError,
    GrpoError,
    MissingExtraError,
    ModelError,
    PluginError,
)
from grpo_sdk.messages import Message, assistant, user
from grpo_sdk.trajectory import Trajectory

if TYPE_CHECKING:
    from tenacity import RetryCallState

_LASTING = (CapabilityError, ConfigError, ContextOverflowError, MissingExtraError, ModelError, PluginError)
"""Failures that another attempt would meet again."""
_LONGEST_PAUSE = 30.0
_JITTER = random.SystemRandom()  # not ``random`` itself: processes that seed it alike would retry together
_SHORTEST_RECORD = 200
_QUOTED = 1500


class JudgeError(GrpoError):
    """The judge gave no usable scores."""


class Judge:
    """One backend as a judge. It starts at the first question and counts its usage."""

    def __init__(
        self, backend: Backend, *, retries: int, corrections: int, pause: float, usage: JudgeUsage
    ) -> None:
        if Capability.CHAT not in backend.capabilities:
            raise CapabilityError(
                f"the judge {type(backend).__name__} cannot chat. In agent.yaml the host makes token "
                "backends chat; in code wrap one in grpo_host.backends.on_demand.OnDemandBackend"
            )
        self.backend = backend
        self.retries = retries
        self.corrections = corrections
        self.pause = pause
        self.usage = usage
        self._starting: asyncio.Task[None] | None = None
        self._started = False

    async def scores(self, group: Sequence[Trajectory], rubric: str, *, max_chars: int) -> list[Verdict]:
        """The verdicts on ``group``, in its order.

        If the group does not fit into the judge's context, more of the records is left out.
        Raises ``JudgeError``, or what the backend raises again and again.
        """
        await self._start()
        while True:
            try:
                return await self._asked(group, rubric, max_chars)
            except ContextOverflowError:
                max_chars //= 2
                if max_chars < _SHORTEST_RECORD:
                    raise

    async def close(self) -> None:
        """Stop the backend, if this started it."""
        if self._started:
            self._started = False
            await self.backend.close()

    async def _asked(self, group: Sequence[Trajectory], rubric: str, max_chars: int) -> list[Verdict]:
        prompt = build_prompt(group, rubric, max_chars=max_chars)
        ids = [str(number) for number in range(1, len(group) + 1)]
        messages: list[Message] = list(prompt)
        max_tokens = 256 + 96 * len(group)
        said = problem = ""
        answers = 0
        while answers <= self.corrections:
            try:
                reply = await self._reply(messages, Sampling(max_tokens=max_tokens, temperature=0.0))
            except ContextOverflowError:
                if not answers:
                    raise
                break  # no space for a correction
            answers += 1
            said = reply.message["content"]
            try:
                verdicts = read_verdicts(said, ids)
            except UnusableAnswerError as unusable:
                problem = str(unusable)
            else:
                return [verdicts[identifier] for identifier in ids]
            if reply.finish_reason == "length":
                problem = (
                    f"it was cut off after {reply.completion_tokens or max_tokens} tokens, and {problem}"
                )
                max_tokens *= 2
            if answers <= self.corrections:
                self.usage.corrections += 1
            correction = CORRECTION.format(problem=problem, ids=", ".join(ids))
            messages = [*prompt, assistant(said[:_QUOTED]), user(correction)]
        raise JudgeError(
            f"the judge {self.backend.model.name} gave no usable scores for {len(group)} trajectories in "
            f"{answers} answer{'s' * (answers > 1)}; of the last one: {problem}. It began: "
            f"{' '.join(said.split())[:120]!r}. Choose a more able judge, or a smaller group"
        )

    async def _reply(self, messages: Sequence[Message], sampling: Sampling) -> ChatReply:
        """The judge's answer; failures are retried after growing pauses."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(self.retries + 1),
            wait=self._pause,
            before_sleep=self._count_retry,
            reraise=True,
        )
        reply: ChatReply = await attempts(self.backend.chat, messages, sampling)
        self.usage.add(reply)
        return reply

    def _pause(self, state: RetryCallState) -> float:
        longest = min(_LONGEST_PAUSE, self.pause * 2.0 ** (state.attempt_number - 1))
        return longest * _JITTER.uniform(0.5, 1.0)  # not all groups of a step at once again

    def _count_retry(self, _: RetryCallState) -> None:
        self.usage.retries += 1

    async def _start(self) -> None:
        """Start the backend, once; a caller that gives up waiting does not end the start."""
        if self._started:
            return
        loop = asyncio.get_running_loop()
        task = self._starting
        if task is None or task.done() or task.get_loop() is not loop:
            task = self._starting = loop.create_task(self._start_backend())
        await asyncio.shield(task)

    async def _start_backend(self) -> None:
        await self.backend.start()
        self._started = True


def _may_pass(problem: BaseException) -> bool:
    return isinstance(problem, Exception) and not isinstance(problem, _LASTING)
