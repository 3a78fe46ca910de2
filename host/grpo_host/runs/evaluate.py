"""``grpo-host eval``: measure an agent on tasks, without training."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.plugins.observed_run import observed_run
from grpo_host.rollouts.evaluation import Evaluation, evaluate
from grpo_host.runs.assembled import assemble
from grpo_host.runs.directory import EVALUATIONS, RunDirectory
from grpo_host.runs.playing import cannot_write, start_agent
from grpo_host.runs.recording import record_in
from grpo_host.runs.run import LEFT_BY_A_RUN
from grpo_host.runs.versions import describe_run
from grpo_host.utils.atomic import write_text
from grpo_host.utils.progress import Reporter, nowhere
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig
    from grpo_host.config.resolve import ResolvedConfig


def run_eval(
    loaded: ResolvedConfig,
    *,
    resume: bool = False,
    out: Path | None = None,
    as_json: bool = False,
    record: bool = False,
) -> int:
    """Evaluate as ``loaded`` says; trajectories and report.json go to ``out``.

    ``resume`` continues in ``out``, or in the latest evaluation, and plays only episodes that are missing
    or failed there. ``record`` keeps what tools, judges and hosted models answer. Returns the exit status:
    1 if nothing could be measured. Raises ``GrpoError``.
    """
    config = loaded.config
    reporter = Reporter((sys.stderr or nowhere()) if as_json else None)
    with ExitStack() as stack:
        stack.enter_context(loaded.closing)
        directory = _evaluation_directory(loaded, resume=resume, out=out)
        stack.callback(directory.release)
        record_in(loaded, directory.path, record=record)
        done = list(directory.read_trajectories()) if resume else []
        stack.enter_context(plugins_print_to_stderr())
        stack.enter_context(observed_run(loaded.registry, "eval", config.name, directory.path))
        assembly = assemble(loaded, progress=reporter.line)
        agent, loop = start_agent(stack, assembly, reporter)
        tasks = assembly.tasks(config.evaluation.split)[: config.evaluation.episodes]
        observers = [directory.append_trajectory, loaded.registry.notify_episode]
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


def _evaluation_directory(loaded: ResolvedConfig, *, resume: bool, out: Path | None) -> RunDirectory:
    parent = _parent_of_evaluations(loaded)
    described = describe_run(loaded)
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
        raise cannot_write(path, problem) from problem
    return RunDirectory(path).acquire()


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
