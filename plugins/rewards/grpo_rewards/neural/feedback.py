"""Keep the last feedback that a reward learns from, and split it for cross-validation."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_rewards.neural.features import answers, feature_rows, last_question
from grpo_sdk.embedder import Embedder
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, as_messages
from grpo_sdk.seeds import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

FOLDS = 4


@dataclass
class Feedback:
    """One conversation and its score."""

    score: float
    question: int
    """A number for the user's message, equal for equal messages."""
    conversation: int
    """A number for the question with its answers."""
    messages: list[Message] | None
    """None once ``row`` is there."""
    context: dict[str, Any] = field(default_factory=dict)
    row: Any = None
    """Its features."""


class Buffer:
    """The last ``size`` feedbacks. Not thread-safe: its owner locks."""

    def __init__(self, size: int) -> None:
        self.items: deque[Feedback] = deque(maxlen=size)

    @property
    def room(self) -> int:
        """How many more fit before it forgets one."""
        return (self.items.maxlen or 0) - len(self.items)

    def add(self, messages: Sequence[Message], score: float, context: dict[str, Any]) -> None:
        """Add one; if the buffer is full, the oldest goes."""
        question = last_question(messages)
        self.items.append(
            Feedback(
                score,
                derive_seed(question),
                derive_seed(question, *answers(messages)),
                list(messages),
                context,
            )
        )


def checked(turns: Sequence[Mapping[str, Any]], reward_score: float) -> tuple[list[Message], float]:
    """The conversation and its score. Raises ``ValueError`` if they are none."""
    messages = as_messages(turns)
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("neural: there is no message of the assistant in the feedback's turns")
    score = float(reward_score)
    if not (math.isfinite(score) and 0.0 <= score <= 1.0):
        raise ValueError(f"neural: the feedback's score is {reward_score}; give a number from 0 to 1")
    return messages, score


def read_feedback(path: Path) -> Iterator[tuple[list[Message], float, dict[str, Any]]]:
    """Each line of ``path``: the conversation, its score, its context. Raises ``ConfigError``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"neural: the feedback in {path} cannot be read: {problem}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield *checked(row["messages"], row["score"]), dict(row.get("context") or {})
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            what = f"it has no {problem}" if isinstance(problem, KeyError) else problem
            raise ConfigError(
                f'{path}:{number}: a line of feedback is {{"messages": [...], "score": 0.0 to 1.0}}: {what}'
            ) from None


def fill_rows(items: Sequence[Feedback], embedder: Embedder) -> None:
    """Compute the features that are not there yet, in one batch; the texts are not needed any more."""
    missing = [item for item in items if item.row is None and item.messages is not None]
    if not missing:
        return
    rows = feature_rows([item.messages or [] for item in missing], embedder)
    for item, row in zip(missing, rows, strict=True):
        item.row, item.messages = row, None


def assign_folds(items: Sequence[Feedback], seed: int) -> NDArray[np.int64]:
    """A fold for each of ``items``: what answers one question is in one fold, so that each network is
    tested on questions that it has not seen. If there are few questions, only alike conversations
    stay together.
    """
    import numpy as np

    questions = {item.question for item in items}
    by_question = len(questions) >= 2 * FOLDS
    keys = [item.question if by_question else item.conversation for item in items]
    sizes: dict[int, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    filled = [0] * FOLDS
    fold_of = {}
    for key in sorted(sizes, key=lambda key: (-sizes[key], derive_seed(seed, key))):
        fold_of[key] = filled.index(min(filled))
        filled[fold_of[key]] += sizes[key]
    return np.array([fold_of[key] for key in keys], np.int64)
