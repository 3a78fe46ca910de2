"""Learn from feedback, and measure how reliable that is: the state behind the reward ``neural``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from grpo_rewards.neural import storage
from grpo_rewards.neural.calibration import HeldOut, fit_curve, measure
from grpo_rewards.neural.feedback import FOLDS, Buffer, assign_folds, fill_rows
from grpo_rewards.neural.head import Head
from grpo_sdk.embedder import Embedder
from grpo_sdk.messages import Message

LEAST_RANKING = 0.6
"""Share of held-out pairs in the right order below which nothing was learned."""
BEYOND_CHANCE = 2.0
"""Standard deviations of chance by which that share must be above a half."""
LEAST_SPREAD = 0.05
"""Standard deviation of the feedback's scores below which there is nothing to learn."""


@dataclass(frozen=True)
class Lesson:
    """One training's result; replaced as a whole, so that a score never sees half of one."""

    head: Head | None = None
    held_out: HeldOut | None = None
    learned_from: int = 0
    """Feedbacks that were in the buffer."""
    doubt: str = ""
    """Why it must not be used, or an empty text."""


@dataclass
class Learner:
    """Feedback and the last lesson from it. ``train`` is for one thread at a time, the rest for any."""

    embedder: Embedder
    embedding_dim: int
    hidden_dim: int
    min_feedback: int
    buffer: Buffer
    seed: int
    lesson: Lesson = field(default_factory=Lesson)
    total: int = 0
    """How many feedbacks were ever given."""
    updates: int = 0
    seconds: float = 0.0
    """Duration of the last training."""

    def __post_init__(self) -> None:
        self._lock = Lock()

    def add(self, messages: Sequence[Message], score: float, context: Mapping[str, Any]) -> int:
        """Keep one feedback. Returns how many were ever given."""
        with self._lock:
            self.buffer.add(messages, score, dict(context))
            self.total += 1
            return self.total

    @property
    def unready(self) -> str:
        """Why it cannot score, or an empty text."""
        lesson = self.lesson
        if lesson.head is None:
            known = len(self.buffer.items)
            if known < self.min_feedback:
                return f"it has {known} of the {self.min_feedback} feedbacks that it needs"
            return lesson.doubt or "it has not learned from its feedback yet; call update()"
        return lesson.doubt

    def train(self) -> None:
        """Learn again from the buffer; does nothing if there is too little in it."""
        import numpy as np

        from grpo_rewards.neural.training import train_head

        started = time.perf_counter()
        items = self._items()
        if len(items) < self.min_feedback:
            return
        scores = np.array([item.score for item in items], np.float32)
        folds = assign_folds(items, self.seed)
        doubt = ""
        if scores.std() < LEAST_SPREAD:
            doubt = "all feedback has about the same score, so there is nothing to tell apart"
        elif len(set(folds.tolist())) < FOLDS:
            doubt = "its feedback is about too few different conversations"
        if doubt:
            self.lesson = Lesson(doubt=doubt)
            return
        fill_rows(items, self.embedder)
        head, logits = train_head(
            np.stack([item.row for item in items]),
            scores,
            folds,
            embedding_dim=self.embedding_dim,
            hidden_dim=self.hidden_dim,
            seed=self.seed,
        )
        held_out = measure(logits, scores, folds)
        head.calibration[:] = fit_curve(logits, scores)
        self.lesson = Lesson(head, held_out, len(items), _doubt(held_out, float(head.calibration[0])))
        self.updates += 1
        self.seconds = time.perf_counter() - started

    def save(self, path: Path) -> None:
        """Write everything but the texts."""
        items = self._items()
        fill_rows(items, self.embedder)
        lesson = self.lesson
        config = {
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "embedder": self.embedder.name,
            "learned_from": lesson.learned_from,
            "doubt": lesson.doubt,
            "held_out": lesson.held_out.as_dict() if lesson.held_out else None,
            "updates": self.updates,
            "feedback": self.total,
        }
        storage.save(path, config, lesson.head, items)

    def load(self, path: Path) -> None:
        """Take over what ``save`` wrote."""
        config = storage.read_config(path)
        head, items = storage.load(path)
        held_out = HeldOut(**config["held_out"]) if config["held_out"] else None
        with self._lock:
            self.buffer.items.extendleft(reversed(items[-self.buffer.room :] if self.buffer.room else []))
            self.lesson = Lesson(head, held_out, int(config["learned_from"]), str(config["doubt"]))
            self.updates += int(config["updates"])
            self.total += int(config["feedback"])

    def _items(self) -> list[Any]:
        with self._lock:
            return list(self.buffer.items)


def _doubt(held_out: HeldOut, slope: float) -> str:
    """Why a trained head is not to be trusted, or an empty text."""
    least = max(LEAST_RANKING, 0.5 + BEYOND_CHANCE * held_out.chance)
    if held_out.ranking < least or slope <= 0.0:
        return (
            f"of held-out feedback it puts {held_out.ranking:.0%} of pairs in the right order, hardly "
            f"more than chance; so much feedback needs {least:.0%}"
        )
    if held_out.error >= held_out.baseline:
        return (
            f"its held-out error of {held_out.error:.2f} is no better than always saying the mean "
            f"({held_out.baseline:.2f})"
        )
    return ""
