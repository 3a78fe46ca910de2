"""Going on with a run: what its settings must still say, and what is done anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.atomic import write_text
from grpo_sdk.errors import RunError

KEPT = (
    "seed",
    "model",
    "environment",
    "environments",
    "rewards",
    "evaluation",
    "training.tasks_per_step",
    "training.curriculum",
    "training.group_size",
    "training.iterations",
    "training.minibatches",
    "training.lora",
    "training.load_in",
    "training.reference",
    "training.warm_start",
)
"""What a run's steps, weights and measurements hang on; it stays for the whole of a run.

But not the seconds of a reward: after one that was too slow, more are needed.
"""
THERE_OR_NOT = ("training.early_stopping",)
"""May change, but neither come nor go: with it, some tasks are not trained on."""


def go_on(directory: RunDirectory, described: str) -> list[str]:
    """The settings in which ``described`` (its agent.yaml now) is not as the run began; it has them now.

    With other ``training.steps`` the run ends elsewhere, and is measured there anew. Raises ``RunError``
    for a setting of ``KEPT``, or one of ``THERE_OR_NOT`` that comes or goes.
    """
    changed = sorted(set(_differing(_recorded(directory.agent_yaml), _values(described))))
    kept = [name for name in changed if _is_kept(name)]
    if kept:
        raise RunError(
            f"the run in {directory.path} was begun with another {', '.join(kept)}. Go on with its own "
            f"settings: grpo-host run {directory.agent_yaml} --resume {directory.path}; "
            "or begin a new run without --resume"
        )
    if changed:
        write_text(directory.agent_yaml, described)
    if "training.steps" in changed:
        report = directory.read_report()
        if report.pop("after", None) is not None:
            directory.write_json(directory.report, report)
    return changed


def _is_kept(name: str) -> bool:
    below = tuple(f"{part}{sign}" for part in KEPT for sign in ".[")
    return name in KEPT + THERE_OR_NOT or (name.startswith(below) and not name.endswith("].seconds"))


def _values(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _recorded(path: Path) -> Any:
    """The settings of the run's agent.yaml. Raises ``RunError`` if it is damaged."""
    from ruamel.yaml.error import YAMLError

    try:
        values = _values(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as problem:
        raise _damaged(path, str(problem).strip().partition("\n")[0]) from problem
    if not isinstance(values, Mapping):
        raise _damaged(path, "it holds no settings")
    return values


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged: {why}. Put it back from a copy, or begin a new run without --resume")


def _differing(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Names of what is not the same. A key that ``then`` lacks is a setting of a later version."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key, value in then.items():
            yield from _differing(value, now.get(key), f"{name}.{key}" if name else str(key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, pair in enumerate(zip(then, now, strict=True)):
            yield from _differing(*pair, f"{name}[{index}]")
    elif then != now:
        yield name
