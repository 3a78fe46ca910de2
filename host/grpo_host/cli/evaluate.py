"""``grpo-host eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.checks.load import load_checked
from grpo_host.cli.command import (
    PATH,
    Command,
    agent_yaml,
    option_override,
    overrides,
    recordings,
    with_plugins,
)

if TYPE_CHECKING:
    from grpo_host.plugins import Registry
    from grpo_host.runs.trained_model import TrainedModel


@click.command(
    "eval",
    cls=Command,
    examples=[
        "grpo-host eval agent.yaml --run latest",
        "grpo-host eval agent.yaml --backend litellm --model openai/gpt-5-mini --episodes 64",
        "grpo-host eval agent.yaml --adapter runs/support-desk/20261122-101500-ab12/adapter --json",
    ],
)
@agent_yaml
@overrides
@click.option("--backend", metavar="NAME", help="Another backend, with its default options.")
@click.option("--model", metavar="NAME", help="Another model.")
@click.option("--adapter", metavar="DIR", help="A PEFT adapter to put on the model.")
@click.option(
    "--run", metavar="RUN", help="Take the model of this run, as it was trained: its id, or latest."
)
@click.option("--episodes", type=click.IntRange(1), help="How many tasks to play.")
@click.option("--split", metavar="SPLIT", help="Which tasks: held_out, train, …")
@click.option("--resume", is_flag=True, help="Go on where an interrupted evaluation stopped.")
@click.option("--out", type=PATH, metavar="DIR", help="Where to write it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@recordings
@with_plugins
def command(
    agent_yaml: Path,
    overrides: tuple[str, ...],
    backend: str | None,
    model: str | None,
    adapter: str | None,
    run: str | None,
    episodes: int | None,
    split: str | None,
    resume: bool,
    out: Path | None,
    as_json: bool,
    record: bool,
    replay: str | None,
    registry: Registry,
) -> int:
    """Measure the agent of an agent.yaml: mean reward and success, with confidence intervals."""
    from grpo_host.config.overrides import Override

    if adapter is not None and run is not None:
        raise click.UsageError("--adapter and --run both name an adapter. Give one of them.")
    trained = None if run is None else model_of_run(agent_yaml, overrides, run)
    changes: list[str | Override] = [
        *option_override("--backend", ("backend",), backend and {"name": backend}),
        *(option_override("--run", ("model", "name"), trained.name) if trained else []),
        *option_override("--model", ("model", "name"), model),
        *(
            [Override(("model", "adapter"), trained.adapter and str(trained.adapter), "--run")]
            if trained
            else option_override("--adapter", ("model", "adapter"), adapter)
        ),
        *option_override("--episodes", ("evaluation", "episodes"), episodes),
        *option_override("--split", ("evaluation", "split"), split),
        *overrides,
    ]
    loaded = load_checked(agent_yaml, changes, registry, "eval", replay=replay)

    from grpo_host.runs.evaluate import run_eval
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()
    return run_eval(loaded, resume=resume, out=out, as_json=as_json, record=record)


def model_of_run(agent_yaml: Path, overrides: tuple[str, ...], run: str) -> TrainedModel:
    """The model that a run of the agent has trained; ``latest``: the last such run. Raises ``RunError``."""
    from grpo_host.config.load import load_config
    from grpo_host.runs.directory import RunDirectory
    from grpo_host.runs.trained_model import trained_model

    config = load_config(agent_yaml, overrides).config
    found = RunDirectory.find(Path(config.output), config.name, run, trained=True)
    return trained_model(found)
