"""Find what a run has trained: its own model, even if another agent.yaml names another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import RunError


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model, and the adapter that was trained on it."""

    name: str
    """As the run's agent.yaml names it; the directory of a model that was trained whole."""
    adapter: Path | None
    """None if the whole model was trained."""


def trained_model(run: RunDirectory) -> TrainedModel:
    """The model that ``run`` has trained. Raises ``RunError`` if the run has not ended."""
    if run.whole_model.is_dir():
        return TrainedModel(str(run.whole_model), None)
    if run.adapter.is_dir():
        return TrainedModel(_base_model(run), run.adapter)
    raise RunError(f"the run {run.path} has no adapter yet; finish it with --resume")


def _base_model(run: RunDirectory) -> str:
    """The model of its agent.yaml; the rest of that file may need secrets that do not exist here."""
    from grpo_host.config.references import resolve_references
    from grpo_host.config.source import read_source

    values, _ = read_source(run.agent_yaml)
    model, _, _ = resolve_references({"model": values.get("model")})
    found = model["model"]
    name = found.get("name") if isinstance(found, dict) else found
    if not isinstance(name, str) or not name:
        raise RunError(f"{run.agent_yaml} names no model")
    # A run that was made by hand may name a directory beside it; the host writes whole paths.
    return str(Path(run.path.absolute(), expanded(name))) if name.startswith(("./", "../", "~")) else name
