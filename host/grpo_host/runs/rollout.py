"""``grpo-host rollout``: play episodes and write their trajectories."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from grpo_host.assembly.runtime import Assembly
from grpo_host.plugins.observed_run import observed_run
from grpo_host.rollouts.engine import group_requests
from grpo_host.rollouts.failures import most_frequent_failure
from grpo_host.runs.assembled import assemble
from grpo_host.runs.playing import cannot_write, start_agent
from grpo_host.runs.recording import record_beside
from grpo_host.utils.progress import Reporter, nowhere
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig


class _ReaderGone(Exception):  # noqa: N818 - no failure
    """The reader of the pipe has closed it, as in ``| head``."""


def run_rollout(
    loaded: ResolvedConfig,
    *,
    episodes: int,
    split: str,
    samples: int,
    out: Path | None,
    record: bool = False,
) -> int:
    """Play ``episodes`` episodes, ``samples`` per task, and write their trajectories as JSON lines.

    Writes to the new file ``out`` or to standard output, each group when it ends. ``record`` keeps beside
    ``out`` what tools, judges and hosted models answer. Returns the exit status: 1 if all failed. Raises
    ``GrpoError``.
    """
    config = loaded.config
    reporter = Reporter(sys.stderr or nowhere())
    with ExitStack() as stack:
        stack.enter_context(loaded.closing)
        if out and out.is_file() and out.stat().st_size:
            raise RunError(f"{out} holds something already; name another --out")
        if out:
            record_beside(loaded, out, record=record)
        standard_output = None if out else _standard_output()
        stack.enter_context(plugins_print_to_stderr())
        stack.enter_context(observed_run(loaded.registry, "rollout", config.name, None))
        assembly = assemble(loaded, progress=reporter.line)
        tasks = _rollout_tasks(assembly, split, episodes, samples)
        file = standard_output or stack.enter_context(_opened(cast("Path", out)))
        agent, loop = start_agent(stack, assembly, reporter)

        def write(trajectory: Trajectory) -> None:
            try:
                file.write(trajectory.to_json() + b"\n")
                file.flush()
            except BrokenPipeError as problem:
                raise _ReaderGone from problem
            except OSError as problem:
                raise cannot_write(out or Path("standard output"), problem) from problem

        requests = group_requests(
            tasks,
            samples,
            seed=lambda task, sample: derive_seed(config.seed, "rollout", task.id, sample),
            label="rollout",
        )
        spare = len(tasks) * samples - episodes
        requests[-1] = requests[-1][: samples - spare]
        engine = assembly.engine(agent, [write, loaded.registry.notify_episode])
        with reporter.phase("episodes", sum(map(len, requests))) as advance:
            try:
                groups, metrics = loop.run(engine.run(requests, on_episode=lambda _: advance()))
            except _ReaderGone:
                return 0
        numbers = metrics.as_dict()
        reporter.line(
            f"{metrics.episodes} episodes in {metrics.seconds:.1f} s: "
            f"{numbers['trajectories_per_second']:.2f} trajectories/s, "
            f"{numbers['tokens_per_second']:.0f} tokens/s, {metrics.tool_errors} tool errors, "
            f"{metrics.forks} forks, {metrics.statuses['failed']} failed"
        )
        failure = most_frequent_failure(item for group in groups for item in group)
        if failure is not None:
            reporter.line(f"what failed most: {failure}")
    return int(metrics.statuses["failed"] == metrics.episodes)


def _rollout_tasks(assembly: Assembly, split: str, episodes: int, samples: int) -> Sequence[Task]:
    """As many tasks as ``episodes`` need. Raises ``RunError`` if there are fewer."""
    name = assembly.config.environment_label
    try:
        tasks = assembly.tasks(split)
    except Exception as problem:  # plugin code
        raise RunError(
            f'--split {split}: the environment "{name}" gives no such tasks: {problem}. '
            f"Every environment has {TRAIN}, and most have {HELD_OUT}"
        ) from problem
    needed = -(-episodes // samples)
    if len(tasks) < needed:
        raise RunError(
            f'--episodes {episodes}: the environment "{name}" has {len(tasks)} {split} tasks. Ask for at '
            f"most {len(tasks) * samples}, or for more --samples of each"
        )
    return tasks[:needed]


def _standard_output() -> BinaryIO:
    if sys.stdout is None:
        raise RunError("standard output is closed, and trajectories would be lost; name a file with --out")
    return sys.stdout.buffer


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as problem:
        raise cannot_write(path, problem) from problem
