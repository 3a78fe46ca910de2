"""A training run from agent.yaml to adapter and report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.assembly.answers import answers_of
from grpo_host.backends.event_loop import LoopThread
from grpo_host.config.training_checks import check_shared
from grpo_host.plugins.observed_run import observed_run
from grpo_host.recorded.answers import Replay
from grpo_host.runs.assembled import assemble
from grpo_host.runs.directory import RunDirectory, kept_if_full
from grpo_host.runs.recording import record_in
from grpo_host.runs.versions import describe_run
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.ranks.process_group import Ranks, join_ranks, leave_ranks
from grpo_host.training.ranks.restarts import remember_run
from grpo_host.training.resume import go_on
from grpo_host.training.training_run import TrainingRun
from grpo_host.utils.atomic import write_text
from grpo_host.utils.progress import Reporter
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_host.utils.validation import say_location
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.config.schema import AgentConfig


def run_training(
    loaded: ResolvedConfig,
    *,
    resume: str | None = None,
    reporter: Reporter | None = None,
    record: bool = False,
) -> int:
    """Train as ``loaded`` says, in a new run directory or in the one that ``resume`` names.

    ``record`` keeps in its directory what tools, judges and hosted models answer. If torchrun started
    this process as one of several, it trains with them. Returns the exit code: 0, or 128 + signal if a
    signal ended it; it can then be resumed. Raises ``GrpoError`` for everything a user can act on.
    """
    with ExitStack() as stack:
        stack.enter_context(loaded.closing)
        training = loaded.config.training
        ranks = join_ranks(training.world_size, training.accelerate)
        stack.callback(leave_ranks, ranks)
        if ranks.sharded:  # as accelerate launch may have asked
            for problem in check_shared(training):
                raise ConfigError(f"{say_location(problem.location)}: {problem.message}")
        reporter = reporter or Reporter(quiet=not ranks.main)
        directory = open_directory(
            loaded.config, ranks, reporter, resume=resume, describe=lambda: describe_run(loaded)
        )
        stack.callback(directory.release)
        record_in(loaded, directory.path, record=record, rank=ranks.rank)
        reporter.line(f"run {directory.path}")
        interrupt = stack.enter_context(Interrupt(ranks).listening(reporter.line))
        told = loaded.registry if ranks.main else None
        stack.enter_context(observed_run(told, "run", loaded.config.name, directory.path))
        loop = LoopThread()
        stack.callback(loop.close)
        assembly = assemble(loaded, progress=reporter.line)
        run = TrainingRun(loaded.config, assembly, directory, loop, reporter, interrupt, loaded, ranks)
        stack.callback(run.close)
        with suppress(StopTraining), plugins_print_to_stderr():
            run.execute()
        if interrupt.requested:
            again = f"grpo-host run {directory.agent_yaml} --resume {directory.path}"
            if isinstance(answers := answers_of(loaded), Replay):
                again += f" --replay {answers.run}"
            reporter.line(f"stopped; go on with: {again}")
        return interrupt.exit_code


def open_directory(
    config: AgentConfig,
    ranks: Ranks,
    reporter: Reporter,
    *,
    resume: str | None,
    describe: Callable[[], str],
) -> RunDirectory:
    """A new run directory with ``describe()`` as its agent.yaml, or the one that ``resume`` names.

    ``auto`` is the latest one, or a new one if there is none. Rank 0 holds it; the others only read
    there. Raises ``RunError``.
    """
    directory: RunDirectory | None = None
    if ranks.main:
        if resume == "auto":
            resume = "latest" if RunDirectory.any(Path(config.output), config.name) else None
        if resume is None:
            directory = RunDirectory.create(Path(config.output), config.name)
            with kept_if_full(directory.agent_yaml):
                write_text(directory.agent_yaml, describe())
        else:
            directory = RunDirectory.find(Path(config.output), config.name, resume).acquire()
            try:
                changed = go_on(directory, describe())
            except BaseException:
                directory.release()
                raise
            if changed:
                reporter.line(f"goes on with another {', '.join(changed)}")
    path = ranks.broadcast(directory.path if directory else Path())
    remember_run(path)
    return directory or RunDirectory(path)
