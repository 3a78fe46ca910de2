"""The model that a chat model is made from: by agent.yaml, run, backend or name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.assembly.agent import sampling_from_config
from grpo_host.backends.local_model import AUTO, LocalModel, installed_plugins
from grpo_host.config.load import load_config
from grpo_host.config.served_sampling import UNMEASURED, served_sampling
from grpo_host.langchain.source import BackendSource
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.trained_model import TrainedModel, trained_model
from grpo_host.utils.paths import expanded
from grpo_sdk.backend import Backend, Capability
from grpo_sdk.errors import ConfigError, RunError

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, SamplingConfig


def find_source(
    *, model: str | None, agent_yaml: str | None, run: str | None, backend: str | Backend | None
) -> BackendSource:
    """What answers. Raises ``ConfigError`` unless exactly one thing is named, and as its parts do."""
    given = {"agent_yaml": agent_yaml, "run": run, "model": model, "backend": backend}
    names = [name for name, value in given.items() if value is not None]
    if agent_yaml is not None and names == ["agent_yaml"]:
        return _of_yaml(Path(agent_yaml))
    if run is not None and names == ["run"]:
        return _of_run(expanded(run))
    if isinstance(backend, Backend) and names == ["backend"]:
        return _of_backend(backend)
    if model is not None and not isinstance(backend, Backend) and set(names) <= {"model", "backend"}:
        return _of_name(model, backend or AUTO)
    said = f"{' and '.join(names)} were given" if names else "nothing was given"
    raise ConfigError(
        "a chat model is made from one of agent_yaml, run, model (with the name of a backend, if you like), "
        f"or a backend that is not started; {said}"
    )


def _of_yaml(path: Path) -> BackendSource:
    config = load_config(path, registry=installed_plugins()).config
    trained = TrainedModel(config.model.name, Path(config.model.adapter) if config.model.adapter else None)
    return _configured(config, trained, served_sampling(config))


def _of_run(path: Path) -> BackendSource:
    if not (path / "agent.yaml").is_file():
        raise RunError(f"{path} is no directory of a run: it has no agent.yaml; give runs/<agent>/<run>")
    run = RunDirectory(path)
    config = load_config(run.agent_yaml, registry=installed_plugins()).config
    return _configured(config, trained_model(run), served_sampling(config))


def _configured(config: AgentConfig, trained: TrainedModel, sampling: SamplingConfig) -> BackendSource:
    own = trained.name == config.model.name
    model = LocalModel(
        trained.name,
        backend=config.backend.name,
        options=config.backend.options,
        adapter=trained.adapter,
        dtype=config.model.dtype,
        context=config.model.context,
        stop=config.model.stop if own else (),
        tool_format=config.model.tool_format if own else AUTO,
        registry=installed_plugins(),
    )
    return BackendSource(
        model,
        name=trained.name,
        capabilities=_capabilities(config.backend.name),
        context=config.model.context,
        sampling=sampling_from_config(sampling),
    )


def _of_backend(backend: Backend) -> BackendSource:
    spec = backend.model
    model = LocalModel(spec.name, backend=backend)
    return BackendSource(
        model,
        name=spec.name,
        capabilities=backend.capabilities,
        context=spec.context,
        sampling=sampling_from_config(UNMEASURED),
    )


def _of_name(name: str, backend: str) -> BackendSource:
    return BackendSource(
        LocalModel(name, backend=backend),
        name=name,
        capabilities=_capabilities(backend),
        sampling=sampling_from_config(UNMEASURED),
    )


def _capabilities(backend: str) -> frozenset[Capability]:
    """Of the backend of this name; what is chosen in its place if nobody says, samples tokens."""
    return installed_plugins().get("backend", "transformers" if backend == AUTO else backend).capabilities
