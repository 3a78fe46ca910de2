"""What a run tells: a line a step, seconds by phase, the curve at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_host.runs.directory import RunDirectory, kept_if_full
from grpo_host.runs.run import Run
from grpo_host.utils.chart import sparkline, terminal_chart
from grpo_host.utils.progress import Reporter


class Timer:
    """Adds the seconds of a block to ``seconds[phase]``, also if the block is left by an error."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._started
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + elapsed


def describe_step(line: Mapping[str, Any], steps: int, rewards: Sequence[float]) -> str:
    """One step's line of metrics as a person wants it: reward, its parts, speed, phases."""
    reward = line.get("reward")
    parts = [
        f"{key.split('/')[1]} {value:.2f}"
        for key, value in line.items()
        if key.startswith("rewards/") and key.endswith("/mean") and value is not None
    ]
    timing = [
        f"{key.removeprefix('seconds/')} {value:.1f} s"
        for key, value in line.items()
        if key.startswith("seconds/")
    ]
    kinds = [
        f"{key.split('/', 1)[1].removesuffix('/reward')} {'none' if value is None else f'{value:.2f}'}"
        for key, value in line.items()
        if key.startswith("kinds/") and key.endswith("/reward")
    ]
    return (
        f"step {line['step']:>3}/{steps}  "
        f"reward {'none' if reward is None else f'{reward:.3f}'} {sparkline(rewards[-20:])}  "
        f"{' '.join(parts)}  "
        f"{_without_update(line)}"
        f"{line.get('rollouts/tokens_per_second', 0):.0f} tok/s  {' '.join(timing)}"
    ) + (f"\n  {'  '.join(kinds)}" if kinds else "")


def _without_update(line: Mapping[str, Any]) -> str:
    """Why the step has not changed the weights, and which tokens it could not learn from."""
    said = []
    if line.get("update/skipped_nonfinite"):
        said.append("no update: the gradient is not finite")
    elif line.get("update/skipped_nothing_to_learn"):
        said.append("no update: no group's rewards differ")
    if count := line.get("sampling/nonfinite_logprobs"):
        said.append(f"{count:.0f} tokens without a finite log-prob")
    return "".join(f"{text}  " for text in said)


def draw_curves(directory: RunDirectory, reporter: Reporter) -> int:
    """Draw the reward, its parts, success and what was measured over the steps; the number of steps."""
    run = Run(directory.path)
    lines = run.metric_lines()
    chart = directory.path / "reward.svg"
    with kept_if_full(chart):
        run.plot().savefig(chart)
    reporter.line(terminal_chart([line["reward"] for line in lines if line.get("reward") is not None]))
    return max((line["step"] for line in lines), default=0)


def next_commands(directory: RunDirectory, result: Path) -> Iterator[str]:
    """What was made, and what can be done with it now."""
    agent = shlex.quote(str(directory.agent_yaml))
    run = shlex.quote(str(directory.path))
    yield f"\n{result.name} {result}"
    yield f"serve it:      grpo-host serve {agent} --run {run}"
    yield f"measure it:    grpo-host eval {agent} --run {run}"
    yield f"take it away:  grpo-host export {run}"
