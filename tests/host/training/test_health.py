"""What a run's metrics are warned of, and when."""

from __future__ import annotations

import pytest

from grpo_host.training.health import CUT, ENTROPY, LENGTH, STEPS, Health

GOOD = {
    "reward": 0.4,
    "entropy": 0.5,
    "frac_reward_zero_std": 0.25,
    "rollouts/cut": 0.1,
    "rollouts/tokens_per_turn": 40.0,
}


def look(health, steps, first=1, **values):
    """The warnings of so many more steps with these metrics."""
    return [
        warning
        for step in range(first, first + steps)
        for warning in health.look({"step": step, **GOOD, **values})
    ]


def test_a_run_that_goes_well_is_not_warned_of():
    health = Health()
    assert look(health, 10) == []
    assert (
        look(health, 10, 11, entropy=0.5 * ENTROPY * 1.1, **{"rollouts/tokens_per_turn": 40 * LENGTH * 1.1})
        == []
    )
    assert health.as_list() == []


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("cut", {"rollouts/cut": CUT + 0.12}, "62% of the replies were cut at sampling.max_tokens"),
        (
            "no_difference",
            {"frac_reward_zero_std": 1.0},
            "did the episodes' rewards differ (mean reward 0.40)",
        ),
        ("entropy", {"entropy": 0.5 * ENTROPY * 0.8}, "entropy fell from 0.500 in the first steps to 0.040"),
        ("length", {"rollouts/tokens_per_turn": 40 * LENGTH * 0.8}, "replies shrank from 40 tokens"),
    ],
)
def test_what_goes_wrong_for_several_steps_is_said_once_with_a_next_step(kind, values, said):
    health = Health()
    look(health, STEPS)
    assert look(health, STEPS - 1, STEPS + 1, **values) == []
    (warning,) = look(health, 10, 2 * STEPS, **values)
    assert (warning.kind, warning.step) == (kind, 2 * STEPS)
    assert warning.message.startswith(f"steps {STEPS + 1} to {2 * STEPS}: ")
    assert said in warning.message
    assert any(hint in warning.message for hint in ("training.", "sampling.", "add a reward"))
    look(health, 3, 30)
    assert look(health, 10, 40, **values) == []
    assert [entry["kind"] for entry in health.as_list()] == [kind]


def test_one_step_in_which_groups_differ_is_enough_to_learn():
    health = Health()
    for step in range(1, 20):
        assert (
            health.look({"step": step, **GOOD, "frac_reward_zero_std": 0.75 if step % 3 == 0 else 1.0}) == []
        )


def test_a_metric_that_is_missing_or_was_no_number_warns_of_nothing():
    health = Health()
    assert look(health, 5, entropy=None, reward=None, frac_reward_zero_std=None) == []
    assert [health.look({"step": step}) for step in range(6, 12)] == [[]] * 6


def test_what_the_metrics_before_an_interruption_showed_is_not_said_again():
    lines = [{"step": step, **GOOD, "rollouts/cut": 1.0} for step in range(1, 7)]
    health = Health()
    for line in lines[:4]:
        health.look(line)
    assert [warning.step for warning in health.warnings] == [3]
    assert [health.look(line) for line in lines[4:]] == [[], []]
