"""Trajectories as the rows that TRL's ``rollout_func`` returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from grpo_sdk.trajectory import TokenConstraint, TokenSequence, Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """One context of an episode as TRL takes it: the ids before the first sampled one, then all the rest."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    """One a completion id; 0.0 where the mask is 0."""
    mask: list[int]
    """One a completion id; 1 = sampled by the policy, which alone carries the loss."""
    weight: float = 1.0
    """Factor of the episode's advantage."""
    constraints: list[TokenConstraint] = field(default_factory=list)
    """Of its completion ids, counted from the first."""

    def __post_init__(self) -> None:
        if not len(self.completion_ids) == len(self.logprobs) == len(self.mask) > 0:
            raise ValueError(
                f"a row needs equally many ids, logprobs and mask values, at least one; got "
                f"{len(self.completion_ids)}, {len(self.logprobs)}, {len(self.mask)}"
            )


def make_rows(trajectory: Trajectory, end_id: int) -> list[Row]:
    """``trajectory`` as rows, one for each sequence with a sampled token that is trained: at least one.

    An episode has several sequences if its history was rewritten, or if an app asked the model for more than
    one conversation. Each sampled token is in exactly one of them, and so in exactly one row.

    A failed or unscored trajectory, or one of which no token is trained, becomes one row that moves
    nothing. (``reward_columns`` says None for the first two, which keeps them out of the group's
    baseline.) Ids after the last sampled one are left off, so that a row ends where the policy stopped:
    TRL reads truncation from the last id.
    """
    sequences = trajectory.ledger.sequences if trajectory.ledger else []
    trained = [item for item in sequences if item.sampled and item.weight] if _counts(trajectory) else []
    if not trained:
        return [empty_row(sequences[0].ids[0] if sequences and sequences[0].ids else end_id, end_id)]
    return [_row(sequence) for sequence in trained]


def empty_row(first_id: int, end_id: int) -> Row:
    """A row that moves nothing: one ``end_id`` that carries no loss."""
    return Row([first_id], [end_id], [0.0], [0], 0.0)


def _row(sequence: TokenSequence) -> Row:
    start = sequence.prompt_length
    end = len(sequence.mask) - sequence.mask[::-1].index(1)
    return Row(
        sequence.ids[:start],
        sequence.ids[start:end],
        sequence.logprobs[start:end],
        sequence.mask[start:end],
        sequence.weight,
        [replace(item, start=item.start - start, end=item.end - start) for item in sequence.constraints],
    )


def reward_columns(trajectories: Sequence[Trajectory], names: Sequence[str]) -> dict[str, list[float | None]]:
    """Each reward's unweighted values, by name; None in every column for one that does not count.

    None too where a reward does not score the trajectory's environment: TRL leaves it out of the sum.
    """
    return {
        name: [t.rewards[name].value if _counts(t) and name in t.rewards else None for t in trajectories]
        for name in names
    }


def has_reward_variance(group: Sequence[Trajectory], *, each: bool = False) -> bool:
    """Whether the group's rewards differ, which is what GRPO learns from: by more than float32's rounding.

    Their sum, or with ``each`` any one of them.
    """
    scored = [item for item in group if _counts(item)]
    sums = [item.reward for item in scored if item.reward is not None]
    if not each:
        return _differ(sums)
    return any(_differ([item.rewards[name].value or 0.0 for item in scored]) for name in _names(scored))


def _names(scored: Sequence[Trajectory]) -> list[str]:
    return [name for name, record in scored[0].rewards.items() if record.weight] if scored else []


def _differ(rewards: Sequence[float]) -> bool:
    return bool(rewards) and not math.isclose(min(rewards), max(rewards), rel_tol=1e-6)


def was_truncated(trajectory: Trajectory) -> bool:
    """Whether a limit ended the episode, or one of its replies."""
    cut = any(turn.finish_reason == "length" for turn in trajectory.turns)
    return cut or trajectory.status == "truncated"


def _counts(trajectory: Trajectory) -> bool:
    """Every reward scored it, and the policy sampled something in it."""
    return trajectory.reward is not None and bool(trajectory.ledger and trajectory.ledger.sampled)
