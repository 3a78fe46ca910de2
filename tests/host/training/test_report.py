from __future__ import annotations

import pytest

from grpo_host.training.report import describe_step


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"update/skipped_nonfinite": 1.0}, "  no update: the gradient is not finite  "),
        ({"update/skipped_nothing_to_learn": 1.0}, "  no update: no group's rewards differ  "),
        ({"sampling/nonfinite_logprobs": 3.0}, "  3 tokens without a finite log-prob  "),
    ],
)
def test_a_steps_line_says_why_it_learnt_nothing(values, says):
    quiet = dict.fromkeys(
        ("update/skipped_nonfinite", "update/skipped_nothing_to_learn", "sampling/nonfinite_logprobs"), 0.0
    )
    line = {"step": 2, "reward": 0.5, **quiet}
    assert says in describe_step({**line, **values}, 9, [0.5])
    assert says.strip() not in describe_step(line, 9, [0.5])
