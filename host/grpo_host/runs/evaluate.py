"""``grpo-host eval`` and ``grpo-host rollout``: episodes without training."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from grpo_host.agents.agent import Agent
from grpo_host.assembly.runtime import Assembly, assemble
from grpo_host.backends.event_loop import LoopThread
from grpo_host.rollouts.engine import group_requests
from grpo_host.rollouts.evaluation import Evaluation, evaluate, most_frequent_failure
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.versions import describe_run
from grpo_host.utils.atomic import write_text
from grpo_host.utils.progress import Reporter, nowhere
from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Registry

EVALUATIONS = "evaluations"
"""Folder below ``<output>/<agent>/`` in which evaluations are kept."""


LEFT_BY_A_RUN = ("metrics.jsonl", "trajectories.jsonl", "report.json")
"""One of them is beside the agent.yaml of every run and every evaluation."""


class _ReaderGone(Exception):  # noqa: N818 - no failure
    """The reader of the pipe has closed it, as in ``| head``."""


def run_eval(
    loaded: LoadedConfig,
    registry: Registry,
    *,
    resume: bool = False,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Evaluate as ``loaded`` says; trajectories and report.json go to ``out``.

    ``resume`` continues in ``out``, or in the latest evaluation, and plays only episodes that are missing
    or failed there. Returns the exit status: 1 if nothing could be measured. Raises ``GrpoError``.
    """
    config = loaded.config
    reporter = Reporter((sys.stderr or nowhere()) if as_json else None)
    with ExitStack() as stack:
        directory = _evaluation_directory(loaded, registry, resume=resume, out=out)
        stack.callback(directory.release)
        done = list(directory.read_trajectories()) if resume else []
        assembly = assemble(config, registry, progress=reporter.line)
        agent, loop = _start(stack, assembly, reporter)
        tasks = assembly.tasks(config.evaluation.split)[: config.evaluation.episodes]
        observers = [directory.append_trajectory, registry.notify_episode]
        with reporter.phase("evaluating", len(tasks)) as advance:
            result, _ = loop.run(
                evaluate(
                    assembly.engine(assembly.evaluating(agent), observers),
                    tasks,
                    seed=config.seed,
                    split=config.evaluation.split,
                    done=done,
                    on_episode=advance,
                )
            )
        report = {"model": config.model.name, "backend": config.backend.name, **result.as_dict()}
        directory.write_json(directory.report, report)
        _print(result, report, directory, reporter, as_json=as_json)
    return int(result.failed == result.episodes)


def run_rollout(
    loaded: LoadedConfig,
    registry: Registry,
    *,
    episodes: int,
    split: str,
    samples: int,
    out: Path | None,
) -> int:
    """Play ``episodes`` episodes, ``samples`` per task, and write their trajectories as JSON lines.

    Writes to the new file ``out`` or to standard output, each group when it ends. Returns the exit
    status: 1 if all failed. Raises ``GrpoError``.
    """
    config = loaded.config
    reporter = Reporter(sys.stderr or nowhere())
    with ExitStack() as stack:
        if out and out.is_file() and out.stat().st_size:
            raise RunError(f"{out} holds something already; name another --out")
        assembly = assemble(config, registry, progress=reporter.line)
        tasks = _rollout_tasks(assembly, split, episodes, samples)
        file = stack.enter_context(_opened(out)) if out else _standard_output()
        agent, loop = _start(stack, assembly, reporter)

        def write(trajectory: Trajectory) -> None:
            try:
                file.write(trajectory.to_json() + b"\n")
                file.flush()
            except BrokenPipeError as problem:
                raise _ReaderGone from problem
            except OSError as problem:
                raise _cannot_write(out or Path("standard output"), problem) from problem

        requests = group_requests(
            tasks,
            samples,
            seed=lambda task, sample: derive_seed(config.seed, "rollout", task.id, sample),
            label="rollout",
        )
        spare = len(tasks) * samples - episodes
        requests[-1] = requests[-1][: samples - spare]
        engine = assembly.engine(agent, [write, registry.notify_episode])
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


def _start(stack: ExitStack, assembly: Assembly, reporter: Reporter) -> tuple[Agent, LoopThread]:
    loop = LoopThread()
    stack.callback(loop.close)
    stack.callback(lambda: loop.run(assembly.close()))
    with reporter.phase("loading the model"):
        return loop.run(assembly.start()), loop


def _rollout_tasks(assembly: Assembly, split: str, episodes: int, samples: int) -> Sequence[Task]:
    """As many tasks as ``episodes`` need. Raises ``RunError`` if there are fewer."""
    name = assembly.config.environment.name
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


def _evaluation_directory(
    loaded: LoadedConfig, registry: Registry, *, resume: bool, out: Path | None
) -> RunDirectory:
    parent = _parent_of_evaluations(loaded)
    described = describe_run(loaded, registry)
    if resume:
        found = RunDirectory.find(parent, EVALUATIONS, str(out) if out else "latest").acquire()
        if found.agent_yaml.read_text(encoding="utf-8") != described:
            found.release()
            raise RunError(
                f"the evaluation in {found.path} was made with other settings; "
                "evaluate without --resume, or with the settings of its agent.yaml"
            )
        return found
    directory = _new_directory(out) if out else RunDirectory.create(parent, EVALUATIONS)
    write_text(directory.agent_yaml, described)
    return directory


def _parent_of_evaluations(loaded: LoadedConfig) -> Path:
    """``<output>/<agent>``; for a run's own agent.yaml, wherever that run is now, even if it was moved."""
    run = loaded.path.absolute().parent
    if loaded.origin.override_of(("output",)) or not any((run / name).is_file() for name in LEFT_BY_A_RUN):
        return Path(loaded.config.output) / loaded.config.name
    return run.parent.parent if run.parent.name == EVALUATIONS else run.parent


def _new_directory(path: Path) -> RunDirectory:
    if (path / "report.json").exists() or (path / "trajectories.jsonl").exists():
        raise RunError(f"{path} holds an evaluation already; add --resume, or name another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    return RunDirectory(path).acquire()


def _standard_output() -> BinaryIO:
    if sys.stdout is None:
        raise RunError("standard output is closed, and trajectories would be lost; name a file with --out")
    return sys.stdout.buffer


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as problem:
        raise _cannot_write(path, problem) from problem


def _cannot_write(path: Path, problem: OSError) -> RunError:
    return RunError(f"cannot write {path}: {problem.strerror or problem}; make room, or name another --out")


def _print(
    result: Evaluation,
    report: dict[str, Any],
    directory: RunDirectory,
    reporter: Reporter,
    *,
    as_json: bool,
) -> None:
    if as_json:
        if sys.stdout is not None:
            sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    reporter.line(str(result))
    reporter.line(f"written to {directory.path}")
