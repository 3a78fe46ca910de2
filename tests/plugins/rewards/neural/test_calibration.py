"""Scores out of logits, and errors on what was held out."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_rewards.neural.calibration import HeldOut, fit_curve, measure
from grpo_rewards.neural.learner import _doubt


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def data(n=600, slope=1.0, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(n)
    scores = np.clip(sigmoid(slope * logits) + noise * rng.standard_normal(n), 0, 1)
    return logits.astype(np.float32), scores.astype(np.float32), np.arange(n) % 4


def test_the_curve_that_made_the_scores_is_found():
    logits, _, _ = data(5000)
    found = fit_curve(logits, sigmoid(2.0 * logits - 0.5))
    assert found == pytest.approx([2.0, -0.5], abs=0.05)


def test_separable_feedback_gives_no_vertical_step():
    slope, _ = fit_curve(np.array([-1.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32))
    assert 0.0 < slope < 5.0


def test_good_logits_have_small_errors():
    held_out = measure(*data(slope=2.0))
    assert held_out.error < 0.01
    assert held_out.baseline > 0.2
    assert held_out.ranking == 1.0
    assert held_out.calibration < 0.01


def test_logits_of_another_scale_are_calibrated():
    logits, scores, folds = data(slope=2.0)
    assert measure(logits * 0.1, scores, folds).error < 0.02
    assert measure(logits * 10, scores, folds).error < 0.05


def test_noise_ranks_like_a_coin_and_is_no_better_than_the_mean():
    _, scores, folds = data(slope=2.0)
    noise = np.random.default_rng(1).standard_normal(len(scores)).astype(np.float32)
    held_out = measure(noise, scores, folds)
    assert held_out.ranking == pytest.approx(0.5, abs=0.05)
    assert held_out.error == pytest.approx(held_out.baseline, abs=0.01)


def test_equal_logits_are_half_right():
    logits, scores, folds = data()
    assert measure(np.zeros_like(logits), scores, folds).ranking == 0.5


def test_logits_that_point_the_wrong_way_are_seen():
    logits, scores, folds = data(slope=2.0)
    assert measure(-logits, scores, folds).ranking == 0.0
    assert fit_curve(-logits, scores)[0] < 0


def test_pairs_are_compared_within_a_fold_alone():
    logits = np.array([0.0, 1.0, 100.0, 101.0], np.float32)
    scores = np.array([0.1, 0.9, 0.1, 0.9], np.float32)
    held_out = measure(logits, scores, np.array([0, 0, 1, 1]))
    assert (held_out.ranking, held_out.pairs) == (1.0, 2)


def test_few_feedbacks_leave_much_to_chance_and_repeated_ones_are_no_more():
    few, many = measure(*data(40)).chance, measure(*data(400)).chance
    assert 0.08 < few < 0.11
    assert many < few / 3
    logits, scores, folds = data(40)
    again = measure(np.tile(logits, 5), np.tile(scores, 5), np.tile(folds, 5)).chance
    assert again == pytest.approx(few, rel=0.2)


@pytest.mark.parametrize(("ranking", "chance", "trusted"), [(0.66, 0.09, False), (0.66, 0.03, True)])
def test_an_order_that_chance_may_give_is_not_trusted(ranking, chance, trusted):
    held_out = HeldOut(0.2, 0.25, ranking, 100, chance, 0.05)
    doubt = _doubt(held_out, slope=1.0)
    assert (not doubt) is trusted
    if doubt:
        assert doubt.endswith(
            "66% of pairs in the right order, hardly more than chance; so much feedback needs 68%"
        )
