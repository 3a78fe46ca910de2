"""The reward ``neural``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from grpo_rewards.embedders import HashingEmbedder, needed
from grpo_rewards.neural import storage
from grpo_rewards.neural.features import answers, feature_rows
from grpo_rewards.neural.feedback import FOLDS, Buffer, checked, read_feedback
from grpo_rewards.neural.learner import Learner
from grpo_sdk.embedder import Embedder
from grpo_sdk.errors import ConfigError, RunError
from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory

logger = logging.getLogger(__name__)

HASHED_DIMENSIONS = 512


class NotTrainedError(RunError):
    """The reward has not learned enough to score anything."""


class NeuralReward(Reward):
    """Scores a conversation by what it has learned from feedback, in [0, 1].

    It reads the policy's last messages and the user's message before the last of them, as vectors
    of a sentence model (``embedder: hashing``: of words and letters, if there is none; then
    words that it has not seen mean nothing to it) and as a few counts of form. Four small networks
    learn from different parts of the feedback; the part that each has not seen gives the held-out
    error and the curve that makes of their mean a calibrated score.

    It learns after every ``update_frequency`` feedbacks, again from the last ``buffer_size``, which
    takes a second or two. It is ``ready`` once it has learned from ``min_feedback`` with different
    scores and ranks held-out feedback better than chance. Until then a score raises
    ``NotTrainedError``; with ``unready: neutral`` it is 0.5 for every conversation, which GRPO's
    comparison within a group cancels.

    A policy that is trained on it will find what the feedback never showed: go on giving feedback
    on what the policy says now. ``path`` is a file of ``save`` to begin with, whose embedder and
    sizes then stand instead of those given. ``feedback`` is a JSONL file of feedback to learn from
    before the first score: ``{"messages": [...], "score": 0.9}`` a line, as ``grpo-host export
    --format feedback`` writes them. The host gives ``sentence_model``, if one is installed.
    """

    weight: float = 1.0
    """For callers that combine reward objects; agent.yaml has its own."""

    def __init__(
        self,
        *,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        update_frequency: int = 50,
        buffer_size: int = 2000,
        min_feedback: int = 40,
        embedder: Literal["auto", "sentence", "hashing"] = "auto",
        unready: Literal["fail", "neutral"] = "fail",
        seed: int = 0,
        path: str | Path | None = None,
        feedback: str | Path | None = None,
        sentence_model: Embedder | None = None,
    ) -> None:
        for name, value, least in (
            ("embedding_dim", embedding_dim, 1),
            ("hidden_dim", hidden_dim, 1),
            ("update_frequency", update_frequency, 1),
            ("min_feedback", min_feedback, 5 * FOLDS),
            ("buffer_size", buffer_size, min_feedback),
        ):
            if value < least:
                raise ValueError(f"neural: {name} is {value}; give at least {least}")
        if unready not in ("fail", "neutral"):
            raise ValueError(f'neural: unready is "{unready}"; give fail or neutral')
        saved = storage.read_config(Path(path)) if path else {}
        self.update_frequency = update_frequency
        self.unready = unready
        self._learner = Learner(
            _choose_embedder(embedder, sentence_model, saved.get("embedder", "")),
            int(saved.get("embedding_dim", embedding_dim)),
            int(saved.get("hidden_dim", hidden_dim)),
            min_feedback,
            Buffer(buffer_size),
            seed,
        )
        self._path = Path(path) if path else None
        self._untaught = feedback is not None
        for messages, score, context in read_feedback(Path(feedback)) if feedback else ():
            self._learner.add(messages, score, context)
        self._lock = Lock()
        self._training: Future[None] | None = None
        self._problem = ""
        self._warned = False

    def add_trajectory_feedback(
        self,
        turns: Sequence[Mapping[str, Any]],
        reward_score: float,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """Learn that the conversation ``turns`` is worth ``reward_score``, from 0 (worst) to 1 (best).

        Every ``update_frequency`` times this trains: at once, or in a thread if an event loop
        runs (``settled`` waits for it). ``context`` is kept with the feedback and not learned from.
        Raises ``ValueError`` if the turns are no conversation or the score is none.
        """
        messages, score = checked(turns, reward_score)
        learner = self._loaded()
        if learner.add(messages, score, context or {}) % self.update_frequency:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _worker().submit(learner.train).result()
            return
        if self._training is not None and not (self._training.running() or self._training.done()):
            return  # one that has not begun yet will learn from this too
        self._training = _worker().submit(learner.train)
        self._training.add_done_callback(self._note_problem)

    def add_feedback(self, trajectory: Trajectory, reward_score: float) -> None:
        """As ``add_trajectory_feedback``, of an episode."""
        self.add_trajectory_feedback(trajectory.messages, reward_score, trajectory.task.data)

    def update(self) -> dict[str, Any]:
        """Learn from the feedback now, and report. Blocks for a second or two; see also ``aupdate``."""
        _worker().submit(self._loaded().train).result()
        return self.report()

    async def aupdate(self) -> dict[str, Any]:
        """As ``update``, off the event loop."""
        await asyncio.wrap_future(_worker().submit(self._loaded().train))
        return self.report()

    async def settled(self) -> None:
        """Wait until no training that feedback has started is under way. ``report`` has its failure."""
        while (training := self._training) is not None and not training.done():
            await asyncio.wait([asyncio.wrap_future(training)])

    @property
    def ready(self) -> bool:
        """Whether it has learned enough to score."""
        return not self._loaded().unready

    @property
    def held_out_error(self) -> float | None:
        """Mean absolute error on feedback that was not learned from; None before the first lesson."""
        held_out = self._loaded().lesson.held_out
        return held_out.error if held_out else None

    def report(self) -> dict[str, Any]:
        """How much feedback it learned from, and how good it is on feedback that it did not learn from."""
        learner = self._loaded()
        lesson = learner.lesson
        return {
            "ready": not learner.unready,
            "reason": learner.unready,
            "feedback": learner.total,
            "buffered": len(learner.buffer.items),
            "learned_from": lesson.learned_from,
            "held_out": lesson.held_out.as_dict() if lesson.held_out else None,
            "updates": learner.updates,
            "update_seconds": round(learner.seconds, 3),
            "embedder": learner.embedder.name,
            "problem": self._problem,
        }

    def score(self, trajectory: Trajectory) -> RewardResult:
        """Raises ``NotTrainedError`` if it is not ``ready``, unless ``unready`` is ``neutral``."""
        learner = self._loaded()
        lesson, reason = learner.lesson, learner.unready
        if lesson.head is None or reason:
            return self._unready_score(reason)
        if not answers(trajectory.messages):
            return RewardResult(0.0, {"logit": 0.0, "spread": 0.0}, "the policy said nothing")
        logits = lesson.head.logits(feature_rows([trajectory.messages], learner.embedder))
        error = f", held-out error {lesson.held_out.error:.2f}" if lesson.held_out else ""
        return RewardResult(
            float(lesson.head.scores(logits)[0]),
            {"logit": float(logits.mean()), "spread": float(logits.std())},
            f"learned from {lesson.learned_from} feedbacks{error}",
        )

    def save(self, path: str | Path) -> None:
        """Write what was learned, and the features of the feedback without its words, as safetensors."""
        _worker().submit(self._loaded().save, Path(path)).result()

    def _unready_score(self, reason: str) -> RewardResult:
        text = f"the reward neural is not trained: {reason}"
        if self.unready == "fail":
            raise NotTrainedError(f"{text}. Give it feedback, or set unready to neutral")
        if not self._warned:
            self._warned = True
            logger.warning("%s; until it is, every score is 0.5", text)
        return RewardResult(0.5, {"logit": 0.0, "spread": 0.0}, f"0.5 for every conversation: {text}")

    def _loaded(self) -> Learner:
        """The learner, with what ``path`` holds and what the file of feedback teaches, when first needed."""
        if self._path is not None or self._untaught:
            with self._lock:
                if self._path is not None:
                    self._learner.load(self._path)
                    self._path = None
                if self._untaught:
                    _worker().submit(self._learner.train).result()
                    self._untaught = False
        return self._learner

    def _note_problem(self, training: Future[None]) -> None:
        """Log the failure of a training that nobody awaits, and keep it for ``report``."""
        problem = training.exception()
        self._problem = f"{type(problem).__name__}: {problem}" if problem else ""
        if problem:
            logger.warning("the reward neural could not learn from its feedback: %s", self._problem)


def _choose_embedder(choice: str, sentence_model: Embedder | None, saved: str) -> Embedder:
    """The embedder that is asked for; ``saved`` is the name of a saved reward's.

    Raises ``ConfigError`` if it cannot be had.
    """
    if choice not in ("auto", "sentence", "hashing"):
        raise ValueError(f'neural: embedder is "{choice}"; give auto, sentence or hashing')
    hashing = HashingEmbedder(HASHED_DIMENSIONS)
    if saved == hashing.name or (not saved and choice == "hashing"):
        return hashing
    if not saved and choice == "auto" and sentence_model is None:
        return hashing
    found = needed(sentence_model, "neural: the saved reward" if saved else "neural: embedder: sentence")
    if saved and found.name != saved:
        raise ConfigError(f"neural: the saved reward was learned with {saved}, and here is {found.name}")
    return found


@cache
def _worker() -> ThreadPoolExecutor:
    """One thread for all training: OpenMP keeps a pool of threads for each thread that calls it."""
    return ThreadPoolExecutor(1, thread_name_prefix="neural-reward")
