from __future__ import annotations

import shlex

import click
import pytest

from grpo_host.cli.group import grpo_host
from grpo_host.runs.directory import RunDirectory
from grpo_host.training.report import describe_step, next_commands


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


def test_a_run_ends_with_commands_that_grpo_host_takes(tmp_path):
    run = RunDirectory(tmp_path / "my runs" / "desk" / "20260101-000000-aaaa")
    run.adapter.mkdir(parents=True)
    run.agent_yaml.write_text("name: desk\n")
    what, *told = next_commands(run, run.adapter)
    assert what.strip() == f"adapter {run.adapter}"
    parsed = {}
    for line in told:
        _, _, command = line.partition("grpo-host ")
        name, *rest = shlex.split(command)
        found = grpo_host.get_command(click.Context(grpo_host), name)
        parsed[name] = found.make_context(name, rest).params
    assert list(parsed) == ["serve", "eval", "export"]
    assert {params["run"] for params in parsed.values()} == {str(run.path)}
