"""What a run's metrics are warned of, and when."""

from __future__ import annotations

import pytest

from grpo_host.runs.diagnosis import Diagnosis, diagnose
from grpo_host.runs.rules import RULES
from grpo_host.runs.rules.policy import ENTROPY
from grpo_host.runs.rules.replies import CUT
from grpo_host.runs.rules.window import LENGTH, STEPS

GOOD = {
    "reward": 0.4,
    "entropy": 0.5,
    "frac_reward_zero_std": 0.25,
    "rollouts/cut": 0.1,
    "rollouts/tokens_per_turn": 40.0,
}


def look(diagnosis, steps, first=1, **values):
    """The warnings of so many more steps with these metrics."""
    return [
        warning
        for step in range(first, first + steps)
        for warning in diagnosis.look({"step": step, **GOOD, **values})
    ]


def test_a_run_that_goes_well_is_not_warned_of():
    diagnosis = Diagnosis()
    assert look(diagnosis, 10) == []
    assert (
        look(
            diagnosis, 10, 11, entropy=0.5 * ENTROPY * 1.1, **{"rollouts/tokens_per_turn": 40 * LENGTH * 1.1}
        )
        == []
    )
    assert diagnosis.warnings() == []


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
    diagnosis = Diagnosis()
    look(diagnosis, STEPS)
    assert look(diagnosis, STEPS - 1, STEPS + 1, **values) == []
    (warning,) = look(diagnosis, 10, 2 * STEPS, **values)
    assert (warning.rule, warning.step, warning.noticed) == (kind, STEPS + 1, 2 * STEPS)
    assert warning.message.startswith(f"steps {STEPS + 1} to {2 * STEPS}: ")
    assert said in warning.message
    assert any(hint in warning.message for hint in ("training.", "sampling.", "add a reward"))
    look(diagnosis, 3, 30)
    assert look(diagnosis, 10, 40, **values) == []
    assert [entry["kind"] for entry in diagnosis.warnings()] == [kind]


def test_one_step_in_which_groups_differ_is_enough_to_learn():
    diagnosis = Diagnosis()
    found = [
        item.rule
        for step in range(1, 20)
        for item in diagnosis.look(
            {"step": step, **GOOD, "frac_reward_zero_std": 0.75 if step % 3 == 0 else 1.0}
        )
    ]
    assert found == ["few_differ"], "and not that there was nothing to learn"


def test_a_metric_that_is_missing_or_was_no_number_warns_of_nothing():
    diagnosis = Diagnosis()
    assert look(diagnosis, 5, entropy=None, reward=None, frac_reward_zero_std=None) == []
    assert [diagnosis.look({"step": step}) for step in range(6, 12)] == [[]] * 6


def test_what_the_metrics_before_an_interruption_showed_is_not_said_again():
    lines = [{"step": step, **GOOD, "rollouts/cut": 1.0} for step in range(1, 7)]
    diagnosis = Diagnosis()
    for line in lines[:4]:
        diagnosis.look(line)
    assert [found.noticed for found in diagnosis.findings] == [3]
    assert [diagnosis.look(line) for line in lines[4:]] == [[], []]


PLANTED = {
    "growth": [{"rollouts/tokens_per_turn": 130.0}],
    "duplicates": [{"rollouts/duplicates": 0.6}],
    "repetition": [{"rollouts/repetition": 0.5}],
    "few_differ": [{"frac_reward_zero_std": 0.8}],
    "far": [{"kl": 0.9}],
    "easy_part": [{"rewards/brief/mean": 0.99, "rewards/brief/std": 0.015, "rewards/right/std": 0.1}],
    "slower": [{"seconds/rollouts": 12.0}],
    "tool_errors": [{"rollouts/tool_calls": 10, "rollouts/tool_errors": 4}],
    "tool_use": [{"rollouts/tool_calls": 2, "rollouts/tool_errors": 0}],
    "failed": [{"rollouts/episodes": 16, "rollouts/failed": 4}],
    "reward_errors": [{"rollouts/episodes": 16, "rollouts/reward_errors": 2}],
    "drift": [
        {"sampling/sampling_logp_difference/mean": 0.2},
        {"sampling/importance_sampling_ratio/mean": 1.3},
        {"sampling/importance_sampling_ratio/mean": 0.7},
    ],
    "clipped": [{"clip_ratio/region_mean": 0.3}],
    "invisible_update": [{"weights/visible_update": 0.3}],
    "gradient": [{"grad_norm": 5.0}],
    "reward_fall": [{"reward": 0.15}],
    "hollow_reward": [{"reward": 0.6}],
    "dominates": [{"rewards/right/std": 0.001}],
    "forks": [{"rollouts/forks": 40}],
}
HEALTHY = {
    **GOOD,
    "grad_norm": 0.4,
    "rewards/right/std": 0.3,
    "rewards/brief/std": 0.2,
    "rollouts/episodes": 16,
    "rollouts/failed": 0,
    "rollouts/reward_errors": 0,
    "rollouts/forks": 0,
    "rollouts/duplicates": 0.1,
    "rollouts/repetition": 0.02,
    "rollouts/tokens_per_second": 100.0,
    "rewards/right/mean": 0.4,
    "rewards/brief/mean": 0.5,
    "seconds/rollouts": 3.0,
    "seconds/training": 2.0,
    "kl": 0.02,
    "rollouts/success": 0.4,
    "rollouts/tool_calls": 16,
    "rollouts/tool_errors": 1,
    "sampling/sampling_logp_difference/mean": 0.01,
    "sampling/importance_sampling_ratio/mean": 1.0,
    "clip_ratio/region_mean": 0.0,
    "weights/visible_update": 0.98,
}
WEIGHTS = {"right": 1.0, "brief": 0.5}


def lines(bad=None, good=6, then=4):
    """Metrics of a run that is healthy and then has these."""
    return [
        {"step": step, **HEALTHY, **(bad if bad and step > good else {})}
        for step in range(1, good + then + 1)
    ]


def test_a_tool_that_never_works_stands_before_what_comes_of_it():
    broken = {"rollouts/tool_errors": 16, "frac_reward_zero_std": 1.0, "reward": 0.0}
    first, second, *_ = diagnose(lines(broken, good=0))
    assert first.text == "every tool call failed"
    assert second.rule == "no_difference"


def test_every_rule_is_planted_here_or_above():
    above = {"cut", "no_difference", "entropy", "length", "flat"}
    assert {rule.name for rule in RULES} == set(PLANTED) | above


@pytest.mark.parametrize(
    ("rule", "bad"), [(rule, bad) for rule, several in PLANTED.items() for bad in several]
)
def test_what_is_planted_is_found_with_the_step_where_it_began_and_nothing_else(rule, bad):
    assert diagnose(lines(), weights=WEIGHTS) == []
    (found,) = diagnose(lines(bad), weights=WEIGHTS)
    assert (found.rule, found.step) == (rule, 7)
    assert len(found.advice) > 20
    assert set(found.series) <= set(HEALTHY)


@pytest.mark.parametrize(
    ("stale", "apart", "advice"),
    [
        ([1, 1, 1], [0.2, 0.2, 0.2], "training.max_staleness"),
        (
            [0, 1, 1],
            [0.0, 0.3, 0.3],
            "training.max_staleness",
        ),  # after --resume the first step is sampled anew
        ([0, 1, 1], [0.3, 0.3, 0.3], "model.dtype"),
        ([0, 0, 0], [0.2, 0.2, 0.2], "model.dtype"),
    ],
)
def test_weights_that_sample_ahead_are_not_taken_for_an_engine_that_computes_otherwise(stale, apart, advice):
    name = "sampling/sampling_logp_difference/mean"
    found = diagnose(
        {"step": step, **HEALTHY, "rollouts/staleness": old, name: gap}
        for step, (old, gap) in enumerate(zip(stale, apart, strict=True), start=1)
    )
    (drift,) = [item for item in found if item.rule == "drift"]
    assert advice in drift.advice


def test_a_gradient_that_is_not_finite_is_said_at_once():
    (found,) = diagnose([{"step": 1, **HEALTHY, "update/skipped_nonfinite": 1.0}])
    assert (found.rule, found.severity, found.message[:7]) == ("nonfinite", "error", "step 1:")


def test_a_reward_that_never_rises_though_groups_differ_is_flat():
    (found,) = diagnose(lines(then=24))
    assert (found.rule, found.severity) == ("flat", "info")
    rising = [
        {**line, "reward": line["step"] / 100, "rollouts/success": line["step"] / 100}
        for line in lines(then=24)
    ]
    assert diagnose(rising) == []


def test_a_reward_that_rises_with_success_is_no_hollow_one():
    assert diagnose(lines({"reward": 0.6, "rollouts/success": 0.6})) == []


def test_without_their_weights_no_reward_is_said_to_dominate():
    assert diagnose(lines(*PLANTED["dominates"])) == []


def measurement(label, step, reward, spread=0.05, split="held_out"):
    interval = (
        {"low": None, "high": None} if spread is None else {"low": reward - spread, "high": reward + spread}
    )
    return {"label": label, "step": step, "split": split, "reward": reward, **interval}


def test_a_held_out_reward_that_falls_while_the_training_reward_rises_is_over_optimised():
    rising = [
        {**line, "reward": line["step"] / 10, "rollouts/success": line["step"] / 10} for line in lines()
    ]
    measured = [measurement("before", 0, 0.5), measurement("after", 10, 0.2)]
    (found,) = diagnose(rising, measured)
    assert (found.rule, found.severity, found.step) == ("over_optimised", "error", 0)
    assert "held_out reward fell from 0.500 to 0.200, while the training reward rose" in found.text
    early = [
        measurement(f"step-{step}", step, reward, None, "validation") for step, reward in ((4, 0.5), (8, 0.3))
    ]
    assert [item.rule for item in diagnose(rising, early)] == ["over_optimised"]
    assert diagnose(rising, [measurement("before", 0, 0.5), measurement("after", 10, 0.7)]) == []


def test_a_run_that_made_the_agent_worse_is_said_to_have():
    falling = [{**line, "reward": 0.8 - line["step"] / 50} for line in lines()]
    found = diagnose(falling, [measurement("before", 0, 0.5), measurement("after", 10, 0.2)])
    assert [item.rule for item in found] == ["worse"]


def test_a_gain_that_chance_may_have_made_is_called_that():
    (found,) = diagnose(lines(), [measurement("before", 0, 0.5), measurement("after", 10, 0.55)])
    assert (found.rule, found.severity) == ("no_gain", "info")


@pytest.mark.parametrize(
    ("ends", "training", "found"),
    [((0.3, 0.6), {}, True), ((0.4, 0.3), {}, False), ((0.4, 0.3), {"reward": 0.6}, True)],
    ids=["clear", "too few episodes", "too few, and hollow in training"],
)
def test_a_held_out_gain_that_costs_success_is_an_error(ends, training, found):
    before = measurement("before", 0, 0.1) | {"success": 0.7, "success_low": ends[1], "success_high": 0.9}
    after = measurement("after", 10, 0.9) | {"success": 0.1, "success_low": 0.0, "success_high": ends[0]}
    said = diagnose(lines(training), [before, after])
    assert ("hollow_gain" in [item.rule for item in said if item.severity == "error"]) is found


def test_success_that_fell_is_not_said_to_have_stayed():
    (found,) = diagnose(lines({"reward": 0.6, "rollouts/success": 0.1}))
    assert "and success fell from 40% to 30%" in found.text


def test_a_held_out_reward_that_is_exactly_as_before_is_not_put_down_to_chance():
    measured = [measurement(label, step, 0.5, 0.0) for label, step in (("before", 0), ("after", 10))]
    (found,) = diagnose(lines(), measured)
    assert (found.rule, "chance" in found.text) == ("no_gain", False)


@pytest.mark.parametrize(("low", "high", "told"), [(0.5, 0.5, True), (0.0, 0.0, False), (0.1, 0.9, False)])
def test_a_reward_that_is_the_same_for_all_is_suspected_not_to_read_the_answer(low, high, told):
    bad = {"frac_reward_zero_std": 1.0, "rollouts/reward_p10": low, "rollouts/reward_p90": high}
    (found,) = diagnose(lines(bad))
    assert found.advice.startswith("Each episode got the same, whatever it said") is told


def test_a_single_reward_among_the_first_steps_is_no_height_to_fall_from():
    seldom = [{**line, "reward": 0.04 if line["step"] == 2 else 0.0} for line in lines()]
    assert diagnose(seldom) == []


def test_errors_come_first():
    bad = {"rollouts/failed": 8, "rollouts/duplicates": 0.9, "entropy": 0.001}
    assert [item.rule for item in diagnose(lines(bad))] == ["failed", "duplicates", "entropy"]
