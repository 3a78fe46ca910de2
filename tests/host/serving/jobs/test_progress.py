from __future__ import annotations

import json

from grpo_host.runs.directory import RunDirectory, write_text
from grpo_host.serving.jobs.progress import MetricsReader, last_step, result_of


def line(step, reward=0.5):
    return json.dumps({"step": step, "reward": reward, "time": 100.0 + step}) + "\n"


def steps(reader):
    return [done.step for done in reader.new_steps()]


def test_steps_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert steps(reader) == []

    path.write_text(line(1) + line(2)[:7])
    assert steps(reader) == [1]
    with path.open("a") as file:
        file.write(line(2)[7:] + line(3))
    assert steps(reader) == [2, 3]
    assert steps(reader) == []


def test_a_step_that_a_resumed_run_does_again_is_told_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2) + line(3))
    reader = MetricsReader(path)
    assert steps(reader) == [1, 2, 3]

    write_text(path, line(1) + line(2) + line(3, 0.7) + line(4))
    assert steps(reader) == [4]


def test_a_reader_may_begin_after_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2) + line(3))

    assert steps(MetricsReader(path, after=2)) == [3]


def test_the_last_whole_line_is_where_a_run_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) is None
    path.write_text("".join(map(line, range(1, 3000))) + '{"step": 3000')

    done = last_step(path)
    assert (done.step, done.reward, done.time) == (2999, 0.5, 3099.0)


def test_lines_that_are_none_of_ours_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + "[]\n" + "no json\n" + '{"reward": 1}\n' + line(2, None))

    assert [(d.step, d.reward) for d in MetricsReader(path).new_steps()] == [(1, 0.5), (2, None)]


def test_a_result_has_the_held_out_rewards_where_they_were_measured(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json(run.report, {"steps": 5, "seconds": {"training": 2.0, "start": 1.5}})
    assert result_of(run) == {"steps": 5, "seconds": 3.5}

    run.write_json(run.report, {"steps": 5, "before": {"reward": {"mean": 0.2}}, "after": {"reward": None}})
    assert result_of(run) == {"steps": 5, "reward_before": 0.2}
