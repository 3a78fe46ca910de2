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
    ],
)
@click.argument("agent_yaml", type=PATH, required=False)
@overrides
@click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    metavar="[RUN]",
    help="Go on with a run that was interrupted: its id or directory, or the latest.",
)
@with_plugins
@click.pass_context
def command(
    context: click.Context,
    agent_yaml: Path | None,
    overrides: tuple[str, ...],
    resume: str | None,
    registry: Registry,
) -> int:
    """Train the agent of an agent.yaml.

    The run is kept in a directory of its own below the `output` of agent.yaml. Ctrl-C saves a
    checkpoint and ends; --resume goes on from there. With `training.world_size`, or started by
    torchrun, several processes train together.
    """
    if agent_yaml is None and resume is not None and Path(resume).is_file():
        agent_yaml, resume = Path(resume), "latest"  # `run --resume agent.yaml`
    if agent_yaml is None:
        raise click.UsageError("Missing argument 'AGENT_YAML'; --resume needs it too.")
    from grpo_host.training.ranks.process_group import is_main_process, launch, launched_ranks, python_module

    ranks = launched_ranks()
    try:
        # torchrun decides how many there are.
        size = option_override("torchrun", ("training", "world_size"), ranks if ranks > 1 else None)
        loaded = load_checked(agent_yaml, [*overrides, *size], registry, "train")
    except GrpoError:
        if is_main_process():
            raise
        return 2  # rank 0 says it
    if loaded.config.training.world_size > ranks:
        same = [*plugin_options(context.obj), "run", str(agent_yaml)]
        same += [part for change in overrides for part in ("--set", change)]
        same += ["--resume", resume] if resume else []
        return launch(python_module("grpo_host.cli", *same), loaded.config.training.world_size)

    from grpo_host.training.from_yaml import run_training
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()
    return run_training(loaded, registry, resume=resume)
