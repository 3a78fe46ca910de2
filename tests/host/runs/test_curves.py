"""What the picture of a run shows."""

from __future__ import annotations

import warnings

import pytest

from grpo_host.runs.curves import draw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # matplotlib imports what is deprecated elsewhere
    pytest.importorskip("matplotlib")

LINES = [
    {
        "step": step,
        "reward": reward,
        "rewards/right/mean": 0.5,
        "rewards/brief/mean": None if step == 2 else 0.2,
        "rollouts/success": 0.4,
        "rollouts/reward_p10": 0.1,
        "rollouts/reward_p90": 0.9,
    }
    for step, reward in ((1, 0.1), (2, None), (3, 0.9))
]
MEASURED = [
    {"label": "before", "step": 0, "split": "held_out", "reward": 0.1, "low": 0.0, "high": 0.3},
    {"label": "step-2", "step": 2, "split": "validation", "reward": 0.2, "low": None, "high": None},
    {"label": "after", "step": 3, "split": "held_out", "reward": 0.8, "low": 0.7, "high": 0.9},
]


def test_parts_success_spread_and_measurements_are_drawn() -> None:
    axes = draw(LINES, MEASURED).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "eight tenths of the episodes",
        "reward",
        "brief",
        "right",
        "success",
        "held_out reward, 95 %",
        "validation reward, 95 %",
    ]


def test_a_run_of_an_earlier_version_is_drawn_with_what_it_has(tmp_path) -> None:
    figure = draw([{"step": 1, "reward": 0.5, "rewards/right/mean": 0.5}], [])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["reward"]
    figure.savefig(tmp_path / "reward.svg")
    assert (tmp_path / "reward.svg").read_bytes().startswith(b"<?xml")


def test_measurements_are_named_since_two_may_stand_at_the_first_step() -> None:
    imitated = {**MEASURED[0], "label": "warm_start", "reward": 0.3}
    axes = draw(LINES, [MEASURED[0], imitated, *MEASURED[1:]]).axes[0]
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "before": (0, 0.1),
        "warm start": (0, 0.3),
        "after": (3, 0.8),
    }
