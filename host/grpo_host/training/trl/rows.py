"""Trajectories as the rows that TRL's ``rollout_func`` returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_sdk.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """One trajectory as TRL takes it: the ids before the first sampled one, then all the rest."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    """One a completion id; 0.0 where the mask is 0."""
    mask: list[int]
    """One a completion id; 1 = sampled by the policy, which alone carries the loss."""

    def __post_init__(self) -> None:
        if not len(self.completion_ids) == len(self.logprobs) == len(self.mask) > 0:
            raise ValueError(
                f"a row needs equally many ids, logprobs and mask values, at least one; got "
                f"{len(self.completion_ids)}, {len(self.logprobs)}, {len(self.mask)}"
            )


def make_row(trajectory: Trajectory, end_id: int) -> Row:
    """``trajectory`` as a row.

    A failed or unscored trajectory, or one without a sampled token, becomes a row that moves
    nothing: one ``end_id`` with mask 0. (``reward_columns`` says None for it, which keeps it out
    of the group's baseline.) Of a trajectory that was split, the last sequence is trained on. Ids after
    the last sampled one are left off, so that a row ends where the policy stopped: TRL reads
    truncation from the last id.
    """
    ledger = trajectory.ledger
    if ledger is None or not _counts(trajectory):
        prompt = ledger.sequences[0].ids[:1] if ledger and ledger.sequences else [end_id]
        return Row(prompt, [end_id], [0.0], [0])
    sequence = next(item for item in reversed(ledger.sequences) if item.sampled)
    start = sequence.prompt_length
    end = len(sequence.mask) - sequence.mask[::-1].index(1)
    return Row(
        sequence.ids[:start],
        sequence.ids[start:end],
        sequence.logprobs[start:end],
        sequence.mask[start:end],
    )


def reward_columns(trajectories: Sequence[Trajectory], names: Sequence[str]) -> dict[str, list[float | None]]:
    """Each reward's unweighted values, by name; None in every column for one that does not count."""
    return {name: [t.rewards[name].value if _counts(t) else None for t in trajectories] for name in names}


def has_reward_variance(group: Sequence[Trajectory]) -> bool:
    """Whether the group's rewards differ, which is what GRPO learns from: by more than float32's rounding."""
    rewards = [item.reward for item in group if item.reward is not None and _counts(item)]
    return bool(rewards) and not math.isclose(min(rewards), max(rewards), rel_tol=1e-6)


def _counts(trajectory: Trajectory) -> bool:
    """Every reward scored it, and the policy sampled something in it."""
    return trajectory.reward is not None and bool(trajectory.ledger and trajectory.ledger.sampled)
