"""``grpo-host doctor``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import PATH, Command, PluginChoice, overrides

if TYPE_CHECKING:
    from grpo_host.checks.findings import Finding
    from grpo_host.plugins import Registry

_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(
    "doctor",
    cls=Command,
    examples=[
        "grpo-host doctor",
        "grpo-host doctor agent.yaml",
        "grpo-host doctor --json | jq '.[] | select(.level != \"ok\")'",
    ],
)
@click.argument("agent_yaml", type=PATH, required=False)
@overrides
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(choice: PluginChoice, agent_yaml: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Look at the installed plugins and at this machine, and say what is wrong and what to do.

    With an AGENT_YAML, also at that, as `check` does. Loads no model. The exit status is 1 if there is an
    error.
    """
    registry = choice.load(report=lambda _: None)
    findings = list(_examine(registry, agent_yaml, overrides))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return int(any(finding.level == "error" for finding in findings))


def _examine(registry: Registry, agent_yaml: Path | None, overrides: tuple[str, ...]) -> Iterator[Finding]:
    from grpo_host.checks.check import check
    from grpo_host.checks.findings import Finding
    from grpo_host.checks.machine_health import examine_machine
    from grpo_host.checks.plugin_health import examine_plugins
    from grpo_host.checks.serving_health import examine_database, examine_port
    from grpo_host.config.load import load_config
    from grpo_host.config.resolve import resolve
    from grpo_host.config.schema import AgentConfig, ServingConfig
    from grpo_host.serving.settings import DATABASE_URL
    from grpo_sdk.errors import GrpoError

    yield from examine_plugins(registry)
    output, serving = Path(AgentConfig.model_fields["output"].default), ServingConfig()
    if agent_yaml is not None:
        try:
            loaded = resolve(load_config(agent_yaml, overrides, registry), registry)
            output, serving = Path(loaded.config.output), loaded.config.serving
            with loaded.closing:
                report = check(loaded)
        except GrpoError as problem:
            yield Finding("error", str(agent_yaml), str(problem), "mend what it says")
        else:
            for wrong in report.problems:
                yield Finding("error", wrong.where, wrong.message, "mend it; grpo-host check says more")
            for warning in report.warnings:
                yield Finding("warning", str(agent_yaml), warning, "if it is not meant, mend it")
            if not report.problems:
                yield Finding("ok", str(agent_yaml), "ready to train")
    yield from examine_machine(output)
    if serving.port:
        yield examine_port(serving.host, serving.port)
    if url := os.environ.get(DATABASE_URL):
        yield examine_database(url, DATABASE_URL)


def _print(findings: list[Finding]) -> None:
    width = min(50, max(len(finding.subject) for finding in findings))
    for finding in findings:
        level = click.style(f"{finding.level:<8}", fg=_COLORS[finding.level])
        click.echo(f"{level} {finding.subject:<{width}}  {finding.says}")
        if finding.todo:
            click.echo(f"{'':8} {'':<{width}}  to do: {finding.todo}")
    counts = {level: sum(finding.level == level for finding in findings) for level in _COLORS}
    click.echo(f"{counts['error']} errors, {counts['warning']} warnings")
