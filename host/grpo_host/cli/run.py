"""``grpo-host run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.checks.load import load_checked
from grpo_host.cli.command import (
    PATH,
    Command,
    option_override,
    overrides,
    plugin_options,
    recordings,
    with_plugins,
)
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@click.command(
    "run",
    cls=Command,
    examples=[
        "grpo-host run agent.yaml",
        "grpo-host run agent.yaml --set training.steps=5 --set rewards[0].weight=0.2",
        "grpo-host run agent.yaml --resume",
        "grpo-host run agent.yaml --replay 20261122-101500-ab12",
    ],
)
@click.argument("agent_yaml", type=PATH, required=False)
@overrides
@click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    metavar="[RUN]",
    help="Go on with a run that was interrupted: its id or directory, or the latest. auto: the latest, "
    "or a new one if there is none.",
)
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine: training.world_size.")
@click.option("--nnodes", type=click.IntRange(1), default=1, help="Machines; each runs the same command.")
@click.option(
    "--rdzv-endpoint",
    metavar="HOST:PORT",
    default="",
    help="Where the machines find each other: a free port of one of them.",
)
@recordings
@with_plugins
@click.pass_context
def command(
    context: click.Context,
    agent_yaml: Path | None,
    overrides: tuple[str, ...],
    resume: str | None,
    nproc: int | None,
    nnodes: int,
    rdzv_endpoint: str,
    record: bool,
    replay: str | None,
    registry: Registry,
) -> int:
    """Train the agent of an agent.yaml.

    The run is kept in a directory of its own below the `output` of agent.yaml. Ctrl-C saves a
    checkpoint and ends; --resume goes on from there. With --nproc or `training.world_size`, or
    started by torchrun, several processes train together. If one dies, all start again from the last
    checkpoint, `training.max_restarts` times.
    """
    if agent_yaml is None and resume is not None and Path(resume).is_file():
        agent_yaml, resume = Path(resume), "latest"  # `run --resume agent.yaml`
    if agent_yaml is None:
        raise click.UsageError("Missing argument 'AGENT_YAML'; --resume needs it too.")
    if nnodes > 1 and not rdzv_endpoint:
        raise click.UsageError("--nnodes needs --rdzv-endpoint, the same on each machine.")
    from grpo_host.training.ranks.process_group import (
        Nodes,
        is_launched,
        is_main_process,
        launch,
        launched_ranks,
        python_module,
    )
    from grpo_host.training.ranks.restarts import (
        exit_at_once,
        main_has_ended,
        remember_exit,
        run_to_go_on_with,
    )

    if (code := exit_at_once()) is not None:
        return code
    ranks = launched_ranks()
    try:
        # torchrun decides how many there are.
        wanted = ranks if ranks > 1 else None if nproc is None else nproc * nnodes
        size = option_override("torchrun", ("training", "world_size"), wanted)
        loaded = load_checked(agent_yaml, [*overrides, *size], registry, "train", replay=replay)
    except GrpoError:
        remember_exit(2)
        if is_main_process() or not main_has_ended():
            raise
        return 2  # rank 0 says it
    training = loaded.config.training
    if not is_launched() and (training.world_size > 1 or nnodes > 1 or training.max_restarts):
        if training.world_size % nnodes:
            raise click.UsageError(f"{training.world_size} processes do not divide into {nnodes} machines.")
        from grpo_host.assembly.answers import answers_of
        from grpo_host.recorded.answers import Replay

        loaded.closing.close()  # each process makes its own
        same = [*plugin_options(context.obj), "run", str(agent_yaml)]
        same += [part for change in overrides for part in ("--set", change)]
        same += ["--resume", resume] if resume else []
        same += ["--record"] if record else []
        if isinstance(answers := answers_of(loaded), Replay):  # the latest run is another once this one began
            same += ["--replay", str(answers.run)]
        return launch(
            python_module("grpo_host.cli", *same),
            training.world_size // nnodes,
            nodes=Nodes(nnodes, rdzv_endpoint),
            max_restarts=training.max_restarts,
        )

    from grpo_host.training.from_yaml import run_training
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()
    try:
        code = run_training(loaded, resume=run_to_go_on_with() or resume, record=record)
    except GrpoError:
        remember_exit(2)
        raise
    if code:
        remember_exit(code)
    return code
