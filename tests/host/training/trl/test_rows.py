from __future__ import annotations

import dataclasses

import pytest

from grpo_host.training.trl.rows import Row, has_reward_variance, make_rows, reward_columns
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, RewardRecord, TokenConstraint, TokenSequence

END = 1


def sequence(mask, first=10):
    count = len(mask)
    return TokenSequence(
        list(range(first, first + count)),
        mask,
        [-0.5 * (index + 1) * sampled for index, sampled in enumerate(mask)],
        [0 if sampled else -1 for sampled in mask],
    )


def trajectory(*sequences, reward=0.5, value=0.5, status="completed"):
    return dataclasses.replace(
        make_trajectory("x", status=status),
        ledger=Ledger(list(sequences)),
        reward=reward,
        rewards={"r": RewardRecord(value, 2.0)},
    )


def test_a_row_begins_at_the_first_sampled_id_and_ends_at_the_last():
    """A row that ended on environment text would count as truncated."""
    (row,) = make_rows(trajectory(sequence([0, 0, 1, 1, 0, 0, 1, 0, 0])), END)
    assert row == Row([10, 11], [12, 13, 14, 15, 16], [-1.5, -2.0, 0.0, 0.0, -3.5], [1, 1, 0, 0, 1])


def test_the_logprobs_of_a_row_are_flat_and_one_an_id():
    """Flat lists; ids, log-probs and mask are of equal length."""
    (row,) = make_rows(trajectory(sequence([0, 1, 0, 1])), END)
    assert all(isinstance(value, float) for value in row.logprobs)
    assert len(row.completion_ids) == len(row.logprobs) == len(row.mask) == 3


@pytest.mark.parametrize(
    "nothing",
    [
        trajectory(sequence([0, 1]), reward=None, status="failed"),
        trajectory(sequence([0, 1]), reward=None, value=None),
        trajectory(sequence([0, 0])),
        trajectory(),
        dataclasses.replace(trajectory(), ledger=None),
    ],
    ids=["failed", "unscored", "nothing sampled", "no sequence", "no ledger"],
)
def test_what_does_not_count_is_a_masked_row_without_a_reward(nothing):
    """No empty completion; an all-zero mask, and None from every reward."""
    (row,) = make_rows(nothing, END)
    assert (row.completion_ids, row.logprobs, row.mask) == ([END], [0.0], [0])
    assert len(row.prompt_ids) == 1
    assert reward_columns([nothing], ["r"]) == {"r": [None]}


def test_each_sampled_token_of_a_trajectory_is_in_one_row():
    split = trajectory(sequence([0, 1]), sequence([0, 0, 1, 1], first=20), sequence([0, 0, 0], first=30))
    rows = make_rows(split, END)
    assert [(row.prompt_ids, row.completion_ids) for row in rows] == [([10], [11]), ([20, 21], [22, 23])]
    assert sum(sum(row.mask) for row in rows) == split.ledger.sampled


def test_a_sequence_that_is_not_trained_has_no_row_and_the_others_keep_their_weights():
    fixed = dataclasses.replace(sequence([0, 1]), weight=0.0)
    half = dataclasses.replace(sequence([0, 1], first=20), weight=0.5)
    rows = make_rows(trajectory(fixed, half), END)
    assert [(row.completion_ids, row.weight) for row in rows] == [([21], 0.5)]


def test_an_episode_of_which_nothing_is_trained_keeps_its_reward():
    """It is part of the baseline: how well the others did is told by comparison."""
    fixed = trajectory(dataclasses.replace(sequence([0, 1]), weight=0.0))
    (row,) = make_rows(fixed, END)
    assert row.mask == [0]
    assert reward_columns([fixed], ["r"]) == {"r": [0.5]}


def test_a_prompt_may_be_empty():
    assert make_rows(trajectory(sequence([1, 1])), END)[0].prompt_ids == []


def test_rewards_are_given_unweighted_in_order():
    rows = [trajectory(sequence([0, 1]), value=value) for value in (0.0, 1.0)]
    assert reward_columns(rows, ["r"]) == {"r": [0.0, 1.0]}


def test_one_missing_reward_leaves_out_all_of_them():
    """TRL would take the sum of the others for the whole: another reward."""
    half = dataclasses.replace(
        trajectory(sequence([0, 1]), reward=None),
        rewards={"a": RewardRecord(1.0), "b": RewardRecord(None, error="no")},
    )
    assert reward_columns([half], ["a", "b"]) == {"a": [None], "b": [None]}


@pytest.mark.parametrize("lists", [([], [], []), ([1], [], [1]), ([1], [0.0], [1, 1])])
def test_uneven_rows_are_refused(lists):
    with pytest.raises(ValueError, match="a row needs equally many ids, logprobs and mask values"):
        Row([0], *lists)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0.0, 1.0], True),
        ([0.0, 0.0], False),
        ([0.1 + 0.2, 0.3], False),
        ([-1e-9, 1e-9], True),
        ([100.0, 100.001], True),
        ([None, 1.0, 1.0], False),
        ([None, 1.0, 2.0], True),
        ([None, None], False),
        ([], False),
    ],
)
def test_a_group_teaches_if_its_rewards_differ_by_more_than_rounding(rewards, expected):
    group = [trajectory(sequence([0, 1]), reward=value) for value in rewards]
    assert has_reward_variance(group) is expected


def test_a_trajectory_without_a_sampled_token_is_no_reason_to_learn():
    assert not has_reward_variance(
        [trajectory(sequence([0, 1]), reward=1.0), trajectory(sequence([0, 0]), reward=0.0)]
    )


def test_a_rows_constraints_are_counted_from_its_first_completion_id():
    limited = dataclasses.replace(
        sequence([0, 0, 1, 1, 0, 1]),
        constraints=[TokenConstraint(2, 4, "{}", [1]), TokenConstraint(5, 6, "{}", [1])],
    )
    (row,) = make_rows(trajectory(limited), END)
    assert [(item.start, item.end) for item in row.constraints] == [(0, 2), (3, 4)]
