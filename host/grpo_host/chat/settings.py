"""``model_config``: the mapping that names a chat's model and how it samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from grpo_host.backends.local_model import AUTO, LocalModel, installed_plugins
from grpo_host.models.precision import resolve_dtype
from grpo_host.models.resolve import check_name
from grpo_host.plugins.options import resolve_use
from grpo_host.plugins.use import PluginUse
from grpo_host.utils.validation import settings_of
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.errors import ConfigError, ModelError

DEFAULT_MODEL = "smollm2-135m"
"""The embedded model, if ``model_config`` names a strategy and no model."""


class ModelSettings(BaseModel):
    """What ``model_config`` may hold; any other key is an error."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    model_type: str | None = Field(None, min_length=1)
    """A registered strategy, or a model as ``model`` takes it."""
    model: str | None = Field(None, min_length=1)
    """An alias, a hub id, a directory, or a provider's name."""
    strategy: str | None = Field(None, min_length=1)
    """A registered strategy."""
    system_prompt: str = ""
    """Put after the strategy's own."""
    backend: str | Backend = AUTO
    """A registered name, ``auto``, or a backend that is not started yet."""
    backend_options: dict[str, Any] = Field(default_factory=dict)
    adapter: Path | None = None
    """A PEFT adapter's directory."""
    dtype: Annotated[str, BeforeValidator(resolve_dtype)] = Field(default=AUTO, validate_default=True)
    context: int | None = Field(None, ge=16)
    """Longest sequence, in tokens."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    stop: list[str] = Field(default_factory=list)
    seed: int | None = None
    """Repeats the conversation if the backend can repeat a sample."""

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> ModelSettings:
        """Raises ``ConfigError`` that names every key that is wrong."""
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(
                'model_config: give a mapping such as {"model_type": "smollm2-135m"}, not '
                f"{type(given).__name__}"
            )
        try:
            settings = settings_of(cls, given or {})
        except ConfigError as problem:
            raise ConfigError(f"model_config: {problem}") from None
        beside = sorted(settings.model_fields_set & {"adapter", "backend_options", "context", "dtype"})
        if isinstance(settings.backend, Backend) and beside:
            raise ConfigError(
                f"model_config: {', '.join(beside)}: a backend that is given is made already. Give it these "
                "when it is made"
            )
        strategies = installed_plugins().names("strategy")
        if settings.model_type:
            settings._take("strategy" if settings.model_type in strategies else "model")
        settings._check(strategies)
        return settings

    def _check(self, strategies: Sequence[str]) -> None:
        """Find mistakes in model and backend now, which otherwise only the first message would find."""
        if isinstance(self.backend, Backend):
            return
        local = True
        if self.backend != AUTO:
            use = PluginUse(name=self.backend, options=self.backend_options)
            offer = resolve_use("backend", use, installed_plugins()).offer
            local = Capability.LOCAL_WEIGHTS in offer.capabilities
        try:
            if local and self.model:
                check_name(self.model, also=strategies)
            if self.adapter is not None and not self.adapter.expanduser().is_dir():
                raise ModelError(f"adapter: the directory {self.adapter} does not exist")
        except ModelError as problem:
            raise ConfigError(f"model_config: {problem}") from None

    def _take(self, key: str) -> None:
        """Let ``model_type`` be what ``key`` says."""
        said = getattr(self, key)
        if said not in (None, self.model_type):
            raise ConfigError(
                f'model_config: model_type "{self.model_type}" and {key} "{said}" name each a {key}; '
                "leave one of them out"
            )
        setattr(self, key, self.model_type)

    def local_model(self, context: int | None = None) -> LocalModel:
        """The model; ``context`` is its longest sequence if the settings name none."""
        return LocalModel(
            self.model or DEFAULT_MODEL,
            backend=self.backend,
            options=self.backend_options,
            adapter=self.adapter,
            dtype=self.dtype,
            context=self.context or context,
        )

    @property
    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop),
        )
