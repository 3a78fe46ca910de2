"""Keep a learned reward in one safetensors file, its configuration as JSON in the metadata. No pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_rewards.neural.feedback import Feedback
from grpo_rewards.neural.head import Head
from grpo_sdk.errors import ConfigError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = "grpo-neural-reward/1"
_LONGEST_HEADER = 10_000_000


def save(path: Path, config: dict[str, Any], head: Head | None, items: Sequence[Feedback]) -> None:
    """Write ``path`` completely or not at all. Keeps features and scores of the feedback, not the words."""
    import numpy as np

    try:
        from safetensors.numpy import save as encode
    except ImportError as problem:
        raise MissingExtraError("saving the reward neural", "safetensors", "train") from problem
    tensors: dict[str, Any] = {}
    if head is not None:
        tensors.update({f"head.{name}": np.ascontiguousarray(a) for name, a in head.arrays().items()})
    if items:
        tensors["feedback.rows"] = np.stack([item.row for item in items])
        tensors["feedback.scores"] = np.array([item.score for item in items], np.float32)
        tensors["feedback.keys"] = np.array([[i.question, i.conversation] for i in items], np.int64)
    data = encode(tensors, {"format": FORMAT, "config": json.dumps(config)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in ``path``, without its arrays. Raises ``ConfigError`` if it has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("no safetensors header")
            metadata = json.loads(file.read(length)).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT}")
        config = json.loads(metadata["config"])
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise ConfigError(
            f"neural: {path} is no learned reward ({problem}). Give a file that NeuralReward.save wrote"
        ) from problem
    return dict(config)


def load(path: Path) -> tuple[Head | None, list[Feedback]]:
    """Read what ``save`` wrote. Raises ``ModelError`` if the arrays are not complete."""
    try:
        from safetensors.numpy import load_file
    except ImportError as problem:
        raise MissingExtraError("loading the reward neural", "safetensors", "train") from problem
    try:
        tensors = load_file(path)
        arrays = {name.removeprefix("head."): a for name, a in tensors.items() if name.startswith("head.")}
        head = Head(**arrays) if arrays else None
        if head is not None:
            head.check()
        items = []
        if "feedback.rows" in tensors:
            columns = (tensors[f"feedback.{name}"] for name in ("rows", "scores", "keys"))
            for row, score, (question, conversation) in zip(*columns, strict=True):
                items.append(Feedback(float(score), int(question), int(conversation), None, row=row))
    except Exception as problem:  # safetensors raises its own kind
        raise ModelError(f"neural: the learned reward {path} does not load: {problem}") from problem
    return head, items
