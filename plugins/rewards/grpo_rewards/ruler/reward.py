"""The group reward ``ruler``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from statistics import fmean
from threading import Lock
from typing import Any
from uuid import uuid4

from grpo_rewards.ruler.judge import Judge
from grpo_rewards.ruler.prompt import DEFAULT_RUBRIC, ending, render
from grpo_rewards.ruler.usage import JudgeUsage
from grpo_rewards.ruler.verdict import Verdict
from grpo_sdk.backend import Backend, ModelSpec
from grpo_sdk.cache import Cache
from grpo_sdk.rewards import GroupReward, RewardResult
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Trajectory

_PROMPT_VERSION = 2
"""Raise it when the prompt changes a judge's answer: verdicts cached for older prompts are then not used."""


class RulerReward(GroupReward):
    """Scores a group's trajectories against each other with a language model, in [0, 1].

    One prompt holds the whole group, since judges compare better than they grade; scores are
    comparable only within one group, which is all that GRPO needs. The group is judged in
    ``orders`` orders, every second one the reverse of the one before, and the scores are averaged,
    so that a judge's liking for a position cancels; what is left of it is shown as the part
    ``disagreement``: the largest less the smallest score over the orders. Trajectories that say the
    same are judged once and score the same; a group of one, or of one distinct trajectory, is
    graded by the rubric only.

    Nothing is made up: a judge whose answers stay unusable after ``corrections`` corrections, or
    that cannot be reached after ``retries`` more attempts (the first after ``pause`` seconds, then
    twice as long each), fails the group. Verdicts are cached by judge, rubric and what was said.
    ``max_chars`` bounds what is shown of a trajectory; whole messages of the middle are left out.

    ``judge`` is a backend that chats and is not started: it is at the first question.
    """

    weight: float = 1.0
    """For callers that combine reward objects; agent.yaml has its own."""

    def __init__(
        self,
        judge: Backend,
        *,
        rubric: str = DEFAULT_RUBRIC,
        orders: int = 2,
        corrections: int = 2,
        retries: int = 3,
        pause: float = 0.5,
        max_chars: int = 12_000,
        cache_size: int = 4096,
        seed: int = 0,
        cache: Cache | None = None,
    ) -> None:
        for name, value, least in (
            ("orders", orders, 1),
            ("corrections", corrections, 0),
            ("retries", retries, 0),
            ("pause", pause, 0),
            ("max_chars", max_chars, 500),
            ("cache_size", cache_size, 0),
        ):
            if value < least:
                raise ValueError(f"ruler: {name} is {value}; give at least {least}")
        if not rubric.strip():
            raise ValueError("ruler: the rubric is empty; leave it out for the default one")
        self._unnamed = uuid4().hex
        self.usage = JudgeUsage()
        self._judge = Judge(judge, retries=retries, corrections=corrections, pause=pause, usage=self.usage)
        self.rubric = rubric.strip()
        self.orders = orders
        self.max_chars = max_chars
        self.seed = seed
        self.cache: Cache = cache if cache is not None else _RecentVerdicts(cache_size)

    async def score_group(self, trajectories: Sequence[Trajectory]) -> list[RewardResult]:
        """Raises ``JudgeError`` if the judge gives no usable scores, and what its backend raises."""
        if not trajectories:
            return []
        self.usage.groups += 1
        keys = [self._content(trajectory) for trajectory in trajectories]
        # Sorted: the order in which the group came must not be part of what is asked.
        distinct = dict(sorted(dict(zip(keys, trajectories, strict=True)).items()))
        orders = self._orders(list(distinct))
        # All are awaited, also after one that failed: what was paid for is in the cache then.
        rounds = await asyncio.gather(
            *(self._round(distinct, order) for order in orders), return_exceptions=True
        )
        done = [verdicts for verdicts in rounds if not isinstance(verdicts, BaseException)]
        for problem in rounds:
            if isinstance(problem, BaseException):
                self.usage.failures += 1
                raise problem
        return [_result([verdicts[key] for verdicts in done]) for key in keys]

    async def aclose(self) -> None:
        """Stop the judge. The host does that itself for a judge that it made."""
        await self._judge.close()

    @property
    def judge(self) -> Backend:
        """The backend that judges."""
        return self._judge.backend

    def _orders(self, keys: list[str]) -> list[list[str]]:
        """The orders in which to show ``keys``: shuffled and turned, each followed by its reverse."""
        if len(keys) < 2:
            return [keys]
        shuffled = list(keys)
        random.Random(derive_seed(self.seed, *keys)).shuffle(shuffled)
        pairs = (self.orders + 1) // 2
        step = max(1, len(keys) // pairs)
        orders = []
        for pair in range(pairs):
            turn = pair * step % len(keys)
            order = shuffled[turn:] + shuffled[:turn]
            orders += [order, order[::-1]]
        return orders[: self.orders]

    @staticmethod
    def _content(trajectory: Trajectory) -> str:
        """A digest of what was said in ``trajectory``."""
        shown = render(trajectory.messages, sys.maxsize, ending=ending(trajectory))
        return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()

    async def _round(self, distinct: dict[str, Trajectory], order: list[str]) -> dict[str, Verdict]:
        """The verdicts of one order, from the cache if it has them."""
        key = self._cache_key(order)
        held = _as_verdicts(self.cache.get(key), len(order))
        if held is not None:
            self.usage.cached += 1
            return dict(zip(order, held, strict=True))
        group = [distinct[content] for content in order]
        verdicts = await self._judge.scores(group, self.rubric, max_chars=self.max_chars)
        self.cache.set(key, [[verdict.score, verdict.explanation] for verdict in verdicts])
        return dict(zip(order, verdicts, strict=True))

    def _cache_key(self, order: list[str]) -> str:
        backend = self.judge
        while isinstance(inner := getattr(backend, "inner", None), Backend):
            backend = inner  # of the host's wrappers
        if hasattr(backend, "base_url") or hasattr(backend, "api_base"):
            where: Any = [getattr(backend, name, None) for name in ("base_url", "api_base")]
        elif backend.model.path is not None:
            where = [_written(backend.model), backend.model.dtype, getattr(backend, "weight_version", None)]
        else:
            where = self._unnamed  # what it does, only it knows
        judge = f"{type(backend).__name__} {where} {backend.model}"
        asked = json.dumps([_PROMPT_VERSION, judge, self.rubric, self.max_chars, order])
        return f"ruler:{hashlib.sha256(asked.encode()).hexdigest()}"


def _written(model: ModelSpec) -> list[Any]:
    """Names, sizes and times of the model's files: others, once its weights are."""
    folders = [folder for folder in (model.path, model.adapter) if folder is not None]
    found = sorted(file for folder in folders for file in folder.glob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found]


class _RecentVerdicts:
    """The verdicts used last, at most ``size``."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[str, Any] = {}
        self._lock = Lock()

    def get(self, key: str) -> Any | None:
        with self._lock:
            if key not in self._held:
                return None
            self._held[key] = value = self._held.pop(key)
            return value

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        with self._lock:
            self._held.pop(key, None)
            self._held[key] = value
            while len(self._held) > self._size:
                del self._held[next(iter(self._held))]


def _as_verdicts(value: Any, count: int) -> list[Verdict] | None:
    """Read verdicts from a cached value; None if it is no set of verdicts."""
    try:
        verdicts = [Verdict(float(score), str(explanation)) for score, explanation in value]
    except (TypeError, ValueError):
        return None
    return verdicts if len(verdicts) == count else None


def _result(verdicts: Sequence[Verdict]) -> RewardResult:
    scores = [verdict.score for verdict in verdicts]
    parts = {f"order_{number}": score for number, score in enumerate(scores, 1)}
    parts["disagreement"] = max(scores) - min(scores)
    explanation = " | ".join(dict.fromkeys(v.explanation for v in verdicts if v.explanation))
    return RewardResult(fmean(scores), parts, explanation or "the judge gave no explanation")
