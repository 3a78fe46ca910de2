"""A run's trajectories in OpenEnv's exchange format of exact tokens: a ``TrainingTrace`` for each.

Schema version 1, as ``openenv.core.harness.training`` of openenv 0.10 checks it. The package is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.atomic import write_text
from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import Ledger, TokenSequence, Trajectory

SCHEMA_VERSION = 1


def export_traces(run: RunDirectory, *, out: Path | None = None) -> Path:
    """Write each trajectory of ``run`` that has exact tokens as a line of JSON: its trace, task and rewards.

    Raises ``RunError`` if none has, or if the file exists.
    """
    target = out or run.path / "export" / "openenv.jsonl"
    if target.exists():
        raise RunError(f"{target} exists; delete it, or name another --out")
    lines = [_line(item) for item in run.read_trajectories() if item.ledger is not None]
    if not lines:
        raise RunError(
            f"the run {run.path} has no trajectory with exact tokens: a backend that speaks token ids "
            "(vllm, transformers) records them"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "".join(lines))
    return target


def _line(trajectory: Trajectory) -> str:
    record = {
        "id": trajectory.id,
        "environment": trajectory.environment,
        "task": trajectory.task.id,
        "status": trajectory.status,
        "reward": trajectory.reward,
        "rewards": {name: record.value for name, record in trajectory.rewards.items()},
        "policy_version": trajectory.policy_version,
        "trace": training_trace(trajectory.id, trajectory.ledger or Ledger()),
    }
    return orjson.dumps(record).decode() + "\n"


def training_trace(id: str, ledger: Ledger) -> dict[str, Any]:
    """``ledger`` as a ``TrainingTrace``: a turn for each answer that the policy sampled.

    What is recorded and not trained has a mask of zeros.
    """
    turns = []
    for number, sequence in enumerate(ledger.sequences):
        for start, end in _answers(sequence):
            trained = int(sequence.weight > 0)
            turns.append(
                {
                    "node_id": f"{id}/{number}/{start}",
                    "prompt_token_ids": sequence.ids[:start],
                    "completion_token_ids": sequence.ids[start:end],
                    "per_token_logps": sequence.logprobs[start:end],
                    "loss_mask": [0] * start + [trained] * (end - start),
                    "metadata": {"role": sequence.role, "policy_version": sequence.versions[start]},
                }
            )
    return {"schema_version": SCHEMA_VERSION, "turns": turns}


def _answers(sequence: TokenSequence) -> list[tuple[int, int]]:
    """Where the policy's answers begin and end."""
    found, at = [], 0
    for sampled, run in groupby(sequence.mask):
        length = len(list(run))
        if sampled:
            found.append((at, at + length))
        at += length
    return found


def ledger_of_trace(trace: Mapping[str, Any]) -> Ledger:
    """The ledger of a ``TrainingTrace``: a turn extends the longest sequence that its prompt begins with.

    Raises ``ValueError`` if it has another schema version, or lists whose lengths do not fit.
    """
    if trace.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"the trace has the schema version {trace.get('schema_version')!r}, not 1")
    sequences: list[TokenSequence] = []
    for turn in trace["turns"]:
        prompt, answer = turn["prompt_token_ids"], turn["completion_token_ids"]
        if len(turn["loss_mask"]) != len(prompt) + len(answer):
            raise ValueError(f"turn {turn['node_id']}: its loss_mask does not cover prompt and completion")
        metadata = turn.get("metadata", {})
        weight = float(any(turn["loss_mask"]))
        sequence = max(
            (one for one in sequences if one.weight == weight and prompt[: len(one.ids)] == one.ids),
            key=lambda one: len(one.ids),
            default=None,
        )
        if sequence is None:
            sequence = TokenSequence([], [], [], [], role=metadata.get("role", ""), weight=weight)
            sequences.append(sequence)
        new = prompt[len(sequence.ids) :]
        sequence.ids.extend([*new, *answer])
        sequence.mask.extend([0] * len(new) + [1] * len(answer))
        sequence.logprobs.extend([0.0] * len(new) + list(turn["per_token_logps"]))
        sequence.versions.extend([-1] * len(new) + [metadata.get("policy_version", 0)] * len(answer))
    return Ledger([TokenSequence(**_fields(one)) for one in sequences])


def _fields(sequence: TokenSequence) -> dict[str, Any]:
    """For a sequence that checks its lengths once more."""
    names = ("ids", "mask", "logprobs", "versions", "role", "weight")
    return {name: getattr(sequence, name) for name in names}
