"""The model behind a chat model or an agent: found by agent.yaml, run, backend or name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from grpo_host.assembly.agent import local_model_from_config, sampling_from_config
from grpo_host.backends.local_model import AUTO, LocalModel, installed_plugins
from grpo_host.config.load import LoadedConfig, load_config
from grpo_host.config.resolve import ResolvedConfig, resolve
from grpo_host.config.served_sampling import UNMEASURED, served_sampling
from grpo_host.langchain.source import BackendSource
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.trained_model import TrainedModel, trained_model
from grpo_host.utils.paths import expanded
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.errors import ConfigError, RunError


@dataclass(frozen=True)
class NamedModel:
    """A model that loads when it is first asked."""

    model: LocalModel
    name: str
    capabilities: frozenset[Capability]
    sampling: Sampling
    """As it is served."""
    context: int | None = None
    """Tokens; None: not known before it is loaded."""
    loaded: ResolvedConfig | None = None
    """The agent that it is the model of."""

    def source(self) -> BackendSource:
        """The source of a chat model's answers."""
        return BackendSource(
            self.model,
            name=self.name,
            capabilities=self.capabilities,
            sampling=self.sampling,
            context=self.context,
        )


def find_model(
    *,
    model: str | None = None,
    agent_yaml: str | None = None,
    run: str | None = None,
    backend: str | Backend | None = None,
) -> NamedModel:
    """The model that is named. Raises ``ConfigError`` unless exactly one is, and as its parts do."""
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


def _of_yaml(path: Path) -> NamedModel:
    loaded = load_config(path, registry=installed_plugins())
    model = loaded.config.model
    return _configured(loaded, TrainedModel(model.name, Path(model.adapter) if model.adapter else None))


def _of_run(path: Path) -> NamedModel:
    if not (path / "agent.yaml").is_file():
        raise RunError(f"{path} is no directory of a run: it has no agent.yaml; give runs/<agent>/<run>")
    run = RunDirectory(path)
    return _configured(load_config(run.agent_yaml, registry=installed_plugins()), trained_model(run))


def _configured(loaded: LoadedConfig, trained: TrainedModel) -> NamedModel:
    config = loaded.config
    return NamedModel(
        local_model_from_config(
            config.model, config.backend, installed_plugins(), trained.name, trained.adapter
        ),
        trained.name,
        _capabilities(config.backend.name),
        sampling_from_config(served_sampling(config)),
        config.model.context,
        resolve(loaded, installed_plugins()),
    )


_of_backends: WeakValueDictionary[int, LocalModel] = WeakValueDictionary()
"""By the id of the backend, which starts once: LangChain copies chat models."""


def _of_backend(backend: Backend) -> NamedModel:
    spec = backend.model
    model = _of_backends.get(id(backend))
    if model is None:
        model = _of_backends[id(backend)] = LocalModel(spec.name, backend=backend)
    return NamedModel(model, spec.name, backend.capabilities, sampling_from_config(UNMEASURED), spec.context)


def _of_name(name: str, backend: str) -> NamedModel:
    model = LocalModel(name, backend=backend)
    return NamedModel(model, name, _capabilities(backend), sampling_from_config(UNMEASURED))


def _capabilities(backend: str) -> frozenset[Capability]:
    """Capabilities of the backend of this name; ``auto`` chooses one that samples tokens."""
    return installed_plugins().get("backend", "transformers" if backend == AUTO else backend).capabilities
